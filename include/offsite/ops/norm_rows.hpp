#pragma once
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstdint>

#include "offsite/core/error.hpp"
#include "offsite/ops/accumulate.hpp"
#include "offsite/ops/norm_kernel.hpp"
#include "offsite/ops/simd.hpp"

namespace offsite::ops {

/// What the backward pass of a norm wants of the forward one.
struct NormSaved {
  at::Tensor x;           ///< (N, C)
  at::Tensor mean, rstd;  ///< (N); no mean where none is subtracted
};

/// What a norm multiplies and adds, as its kernels read it: contiguous float32 (C).
struct NormParameters {
  at::Tensor scale, shift;
};

/// What a norm multiplies and adds, float32 (C), and the gradients of what of it trains; undefined = none.
struct NormTrained {
  at::Tensor scale, shift, d_scale, d_shift;
};

/// `t` as contiguous float32 (columns), or `otherwise` for every column where it is undefined.
[[nodiscard]] inline at::Tensor norm_parameter(const at::Tensor& t, std::int64_t columns, double otherwise) {
  return t.defined() ? t.to(at::kFloat).contiguous() : at::full({columns}, otherwise, at::kFloat);
}

/// (N, C) -> (N, C): each row, less its mean if `kCentred`, over the root of its mean square, times scale plus shift.
/// An `addend` (N, C), if there is one, is added to `x` in place before, in the same pass.
/// \throws ArgumentError unless x is float32 or bfloat16 on the CPU and as wide as the parameters.
template <bool kCentred>
[[nodiscard]] at::Tensor norm_rows(const at::Tensor& x, const NormParameters& parameters, double eps,
                                   NormSaved& saved, bool save, const at::Tensor& addend = {}) {
  const auto columns = parameters.scale.size(0);
  require(x.dim() == 2 && x.size(1) == columns && (!kCentred || parameters.shift.size(0) == columns),
          "a norm of width {} was given rows of width {}", columns, x.dim() > 0 ? x.size(-1) : 0);
  require(detail::is_fast(x), "a norm's kernel wants float32 or bfloat16 on the CPU, not {}",
          x.dtype().name());
  const bool adds = addend.defined() && detail::is_like(addend, x);
  if (addend.defined() && !adds) accumulate(x, addend);
  const at::Tensor from = x.contiguous(), y = at::empty_like(from), rstd = at::empty({x.size(0)}, at::kFloat);
  const at::Tensor mean = kCentred ? at::empty_like(rstd) : at::Tensor();
  with_type(x, [&]<class T>(T*) {
    auto* p = from.mutable_data_ptr<T>();  // written only with an addend
    const auto* a = adds ? addend.const_data_ptr<T>() : nullptr;
    const auto* scale = parameters.scale.const_data_ptr<float>();
    const auto* shift = kCentred ? parameters.shift.const_data_ptr<float>() : nullptr;
    auto* q = y.mutable_data_ptr<T>();
    auto* m = kCentred ? mean.mutable_data_ptr<float>() : nullptr;
    auto* r = rstd.mutable_data_ptr<float>();
    at::parallel_for(0, x.size(0), 1 + 16384 / (columns + 1), [&](std::int64_t begin, std::int64_t end) {
      simd::run<detail::NormKernel<kCentred>>(
          p + begin * columns, adds ? a + begin * columns : nullptr, scale, shift, q + begin * columns,
          kCentred ? m + begin : nullptr, r + begin, end - begin, columns, static_cast<float>(eps));
    });
  });
  if (save) saved = {from, mean, rstd};
  return y;
}

/// dL/dx, undefined unless `need_dx`, plus the `addend` (N, C) if there is one; adds dL/dscale and dL/dshift to those of
/// the two that are defined. Sums are over 64 rows, then over those sums in their order: the number of threads changes no
/// bits.
template <bool kCentred>
[[nodiscard]] at::Tensor norm_rows_backward(const at::Tensor& dy, const NormSaved& saved,
                                            const at::Tensor& scale, const at::Tensor& d_scale,
                                            const at::Tensor& d_shift, bool need_dx,
                                            const at::Tensor& addend = {}) {
  constexpr std::int64_t kRows = 64;
  const bool trains = d_scale.defined() || d_shift.defined();
  if (!need_dx && !trains) return {};
  const at::Tensor d = dy.to(saved.x.scalar_type()).contiguous();
  require(d.sizes() == saved.x.sizes(), "a norm kept {} rows and was given gradients of {}", saved.x.size(0),
          d.size(0));
  const auto rows = d.size(0), columns = d.size(1), chunks = (rows + kRows - 1) / kRows;
  const at::Tensor dx = need_dx ? at::empty_like(d) : at::Tensor();
  const bool adds = need_dx && addend.defined() && detail::is_like(addend, d);
  const at::Tensor sums = trains ? at::zeros({2, chunks, columns}, at::kFloat) : at::Tensor();
  with_type(d, [&]<class T>(T*) {
    const auto *p = d.const_data_ptr<T>(), *x = saved.x.const_data_ptr<T>();
    const auto *w = scale.const_data_ptr<float>(), *r = saved.rstd.const_data_ptr<float>();
    const auto* m = kCentred ? saved.mean.const_data_ptr<float>() : nullptr;
    const auto* a = adds ? addend.const_data_ptr<T>() : nullptr;
    auto* q = need_dx ? dx.mutable_data_ptr<T>() : nullptr;
    auto* s = trains ? sums.mutable_data_ptr<float>() : nullptr;
    const auto grain = 1 + 16384 / (kRows * columns + 1);
    at::parallel_for(0, chunks, grain, [&](std::int64_t begin, std::int64_t end) {
      for (auto c = begin; c < end; ++c) {
        const auto first = c * kRows, at = first * columns;
        simd::run<detail::NormBackwardKernel<kCentred>>(
            p + at, x + at, adds ? a + at : nullptr, w, kCentred ? m + first : nullptr, r + first,
            need_dx ? q + at : nullptr, trains ? s + c * columns : nullptr,
            trains ? s + (chunks + c) * columns : nullptr, std::min(kRows, rows - first), columns);
      }
    });
  });
  if (d_scale.defined()) accumulate_rows(d_scale, sums[0]);
  if (d_shift.defined()) accumulate_rows(d_shift, sums[1]);
  if (need_dx && addend.defined() && !adds) accumulate(dx, addend);
  return dx;
}

}  // namespace offsite::ops
