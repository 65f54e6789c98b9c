#pragma once
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/rsqrt.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>

#include "offsite/core/error.hpp"
#include "offsite/ops/accumulate.hpp"
#include "offsite/ops/simd.hpp"

namespace offsite {
namespace ops::detail {

/// Calls `f(j, lanes)` for the columns of a row: sixteen at a time, then the rest.
template <class F>
[[gnu::always_inline]] inline void for_lanes(std::int64_t columns, F&& f) {
  std::int64_t j = 0;
  for (; j + simd::kLanes <= columns; j += simd::kLanes) f(j, simd::kLanes);
  if (j < columns) f(j, columns - j);
}
template <class T>
[[gnu::always_inline]] inline simd::Floats load_lanes(const T* p, std::int64_t n) {
  return n == simd::kLanes ? simd::load(p) : simd::load_some(p, n);
}
template <class T>
[[gnu::always_inline]] inline void store_lanes(T* p, const simd::Floats& v, std::int64_t n) {
  if (n == simd::kLanes)
    simd::store(p, v);
  else
    simd::store_some(p, v, n);
}

struct RmsNormKernel {  // one row; `*rstd` is written
  template <simd::Isa, class T, class W>
  [[gnu::always_inline]] static void run(const T* x, const W* w, float shift, T* y, float* rstd,
                                         std::int64_t columns, float eps) {
    simd::Floats squares{};
    for_lanes(
        columns, [&](std::int64_t j, std::int64_t n) __attribute__((always_inline)) {
          const simd::Floats v = load_lanes(x + j, n);
          squares += v * v;
        });
    const float r = 1.0f / std::sqrt(simd::sum(squares) / static_cast<float>(columns) + eps);
    *rstd = r;
    for_lanes(
        columns, [&](std::int64_t j, std::int64_t n) __attribute__((always_inline)) {
          store_lanes(y + j, load_lanes(x + j, n) * r * (load_lanes(w + j, n) + shift), n);
        });
  }
};

struct RmsNormBackwardKernel {  // dx = r (g - x^ mean(g x^)) with g = dy w and x^ = r x; dx may be dy
  template <simd::Isa, class T, class W>
  [[gnu::always_inline]] static void run(const T* dy, const T* x, const W* w, float shift, T* dx, float r,
                                         std::int64_t columns) {
    simd::Floats products{};
    for_lanes(
        columns, [&](std::int64_t j, std::int64_t n) __attribute__((always_inline)) {
          products += load_lanes(dy + j, n) * (load_lanes(w + j, n) + shift) * load_lanes(x + j, n);
        });
    const float mean = simd::sum(products) * r * r / static_cast<float>(columns);
    for_lanes(
        columns, [&](std::int64_t j, std::int64_t n) __attribute__((always_inline)) {
          const simd::Floats g = load_lanes(dy + j, n) * (load_lanes(w + j, n) + shift);
          store_lanes(dx + j, (g - load_lanes(x + j, n) * mean) * r, n);
        });
  }
};

struct RmsNormWeightKernel {  // to[j] += sum over rows of dy x rstd, for j < columns
  template <simd::Isa, class T>
  [[gnu::always_inline]] static void run(float* to, const T* dy, const T* x, const float* rstd,
                                         std::int64_t ld, std::int64_t rows, std::int64_t columns) {
    for_lanes(
        columns, [&](std::int64_t j, std::int64_t n) __attribute__((always_inline)) {
          simd::Floats sum{};
          for (std::int64_t i = 0; i < rows; ++i)
            sum += load_lanes(dy + i * ld + j, n) * load_lanes(x + i * ld + j, n) * rstd[i];
          store_lanes(to + j, load_lanes(to + j, n) + sum, n);
        });
  }
};

}  // namespace ops::detail

/// Root-mean-square norm over the columns of (N, C) rows (Zhang, Sennrich, arXiv:1910.07467).
struct RmsNorm {
  at::Tensor weight;  ///< (C)
  double eps = 1e-6;
  bool zero_centred = false;  ///< rows are scaled by 1 + weight, as in Gemma

  struct Saved {
    at::Tensor x, rstd;
  };

  /// Differentiable by autograd; computed in float32.
  [[nodiscard]] at::Tensor forward(const at::Tensor& x) const {
    const at::Tensor wide = x.to(at::kFloat), w = weight.to(at::kFloat);
    const at::Tensor rstd = at::rsqrt(wide.mul(wide).mean(-1, true).add(eps));
    return wide.mul(rstd).mul(zero_centred ? w.add(1) : w).to(x.scalar_type());
  }

  /// The same; keeps for `backward` what it needs if `save`.
  [[nodiscard]] at::Tensor forward(const at::Tensor& x, Saved& saved, bool save) const {
    check(x);
    const at::Tensor from = x.contiguous(), y = at::empty_like(from),
                     rstd = at::empty({x.size(0)}, x.options().dtype(at::kFloat));
    const auto columns = x.size(1);
    ops::with_type(x, [&]<class T>(T*) {
      ops::with_type(weight, [&]<class W>(W*) {
        const auto* p = from.const_data_ptr<T>();
        const auto* w = weight.const_data_ptr<W>();
        auto* q = y.mutable_data_ptr<T>();
        auto* r = rstd.mutable_data_ptr<float>();
        at::parallel_for(0, x.size(0), 1 + 16384 / (columns + 1), [&](std::int64_t begin, std::int64_t end) {
          for (auto i = begin; i < end; ++i)
            simd::run<ops::detail::RmsNormKernel>(p + i * columns, w, shift(), q + i * columns, r + i,
                                                  columns, static_cast<float>(eps));
        });
      });
    });
    if (save) saved = {from, rstd};
    return y;
  }

  /// dL/dx, undefined unless `need_dx`; adds the gradient of the weight if it trains.
  [[nodiscard]] at::Tensor backward(const at::Tensor& dy, const Saved& saved, bool need_dx = true) const {
    const at::Tensor d = dy.contiguous();
    const auto columns = d.size(1);
    if (trains()) add_weight_gradient(d, saved);
    if (!need_dx) return {};
    const at::Tensor dx = at::empty_like(d);
    ops::with_type(d, [&]<class T>(T*) {
      ops::with_type(weight, [&]<class W>(W*) {
        const auto *p = d.const_data_ptr<T>(), *x = saved.x.const_data_ptr<T>();
        const auto* w = weight.const_data_ptr<W>();
        const auto* r = saved.rstd.const_data_ptr<float>();
        auto* q = dx.mutable_data_ptr<T>();
        at::parallel_for(0, d.size(0), 1 + 16384 / (columns + 1), [&](std::int64_t begin, std::int64_t end) {
          for (auto i = begin; i < end; ++i)
            simd::run<ops::detail::RmsNormBackwardKernel>(p + i * columns, x + i * columns, w, shift(),
                                                          q + i * columns, r[i], columns);
        });
      });
    });
    return dx;
  }

  [[nodiscard]] bool trains() const { return weight.grad().defined(); }

  /// Calls `f(name, tensor&)` for the parameter.
  template <class F>
  void visit(std::string_view prefix, F&& f) {
    f(std::string(prefix) + ".weight", weight);
  }

 private:
  [[nodiscard]] float shift() const { return zero_centred ? 1.0f : 0.0f; }

  void check(const at::Tensor& x) const {
    require(x.dim() == 2 && weight.dim() == 1 && x.size(1) == weight.size(0) && weight.is_contiguous(),
            "a norm of width {} was given rows of width {}", weight.numel(), x.size(-1));
    require(ops::detail::is_fast(x) && ops::detail::is_fast(weight),
            "a root-mean-square norm wants float32 or bfloat16 on the CPU, not {} and {}", x.dtype().name(),
            weight.dtype().name());
  }

  /// Each column is summed by one thread in the order of rows: the number of threads changes no bits.
  void add_weight_gradient(const at::Tensor& d, const Saved& saved) const {
    const at::Tensor& gradient = weight.grad();
    const at::Tensor to = gradient.scalar_type() == at::kFloat && gradient.is_contiguous()
                              ? gradient
                              : gradient.to(at::kFloat).contiguous();
    const auto columns = d.size(1), strips = (columns + 63) / 64;
    ops::with_type(d, [&]<class T>(T*) {
      const auto *p = d.const_data_ptr<T>(), *x = saved.x.const_data_ptr<T>();
      const auto* r = saved.rstd.const_data_ptr<float>();
      auto* g = to.mutable_data_ptr<float>();
      at::parallel_for(0, strips, 1, [&](std::int64_t begin, std::int64_t end) {
        const auto first = begin * 64, count = std::min(end * 64, columns) - first;
        simd::run<ops::detail::RmsNormWeightKernel>(g + first, p + first, x + first, r, columns, d.size(0),
                                                    count);
      });
    });
    if (!to.is_same(gradient)) gradient.copy_(to);
  }
};

}  // namespace offsite
