#pragma once
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include "offsite/ops/simd.hpp"

namespace offsite::ops {
namespace detail {

struct AccumulateKernel {  // to[i] += from[i]
  template <simd::Isa, class T>
  [[gnu::always_inline]] static void run(float* to, const T* from, std::int64_t n) {
    std::int64_t i = 0;
    for (; i + simd::kLanes <= n; i += simd::kLanes)
      simd::store(to + i, simd::load(to + i) + simd::load(from + i));
    for (; i < n; ++i) to[i] += static_cast<float>(from[i]);
  }
};

struct ColumnSumKernel {  // to[j] += sum over rows of from[row][j], for j < columns
  template <simd::Isa, class T>
  [[gnu::always_inline]] static void run(float* to, const T* from, std::int64_t ld, std::int64_t rows,
                                         std::int64_t columns) {
    std::int64_t j = 0;
    for (; j + 4 * simd::kLanes <= columns; j += 4 * simd::kLanes) {
      simd::Floats sum[4] = {};
      for (std::int64_t r = 0; r < rows; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < 4; ++v) sum[v] += simd::load(from + r * ld + j + v * simd::kLanes);
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v)
        simd::store(to + j + v * simd::kLanes, simd::load(to + j + v * simd::kLanes) + sum[v]);
    }
    for (; j < columns; j += simd::kLanes) {
      const auto n = std::min(simd::kLanes, columns - j);
      simd::Floats sum{};
      for (std::int64_t r = 0; r < rows; ++r) sum += simd::load_some(from + r * ld + j, n);
      simd::store_some(to + j, simd::load_some(to + j, n) + sum, n);
    }
  }
};

[[nodiscard]] inline bool is_fast(const at::Tensor& t) {
  return t.is_cpu() && (t.scalar_type() == at::kFloat || t.scalar_type() == at::kBFloat16);
}

}  // namespace detail

/// Calls `f` with a null pointer of the C++ type of `t`: float or bfloat16 (check `detail::is_fast` before).
template <class F>
void with_type(const at::Tensor& t, F&& f) {
  if (t.scalar_type() == at::kFloat)
    f(static_cast<float*>(nullptr));
  else
    f(static_cast<c10::BFloat16*>(nullptr));
}

/// to += from for float32 `to` and any floating `from` of the same shape; one pass. Rows of `to` may be
/// strided.
///
/// ATen's add of mixed types takes three times as long. Other types and layouts go to `Tensor::add_`.
inline void accumulate(const at::Tensor& to, const at::Tensor& from) {
  const bool rows = to.dim() == 2 && to.stride(1) == 1 && from.stride(1) == 1;
  const bool flat = to.is_contiguous() && from.is_contiguous();
  if (!detail::is_fast(from) || to.scalar_type() != at::kFloat || to.sizes() != from.sizes() ||
      !(rows || flat)) {
    to.add_(from);
    return;
  }
  auto* p = to.mutable_data_ptr<float>();
  with_type(from, [&]<class T>(T*) {
    const auto* q = from.const_data_ptr<T>();
    if (flat) {
      at::parallel_for(0, to.numel(), 65536, [&](std::int64_t begin, std::int64_t end) {
        simd::run<detail::AccumulateKernel>(p + begin, q + begin, end - begin);
      });
    } else {
      const auto columns = to.size(1), to_ld = to.stride(0), from_ld = from.stride(0);
      at::parallel_for(0, to.size(0), 1 + 65536 / (columns + 1), [&](std::int64_t begin, std::int64_t end) {
        for (auto i = begin; i < end; ++i)
          simd::run<detail::AccumulateKernel>(p + i * to_ld, q + i * from_ld, columns);
      });
    }
  });
}

/// to += from.sum(0) for float32 `to` (C) and `from` (N, C), summed in float32. Each column is summed by one
/// thread in the order of rows, so the result does not depend on the number of threads.
inline void accumulate_rows(const at::Tensor& to, const at::Tensor& from) {
  if (!detail::is_fast(from) || to.scalar_type() != at::kFloat || !to.is_contiguous() ||
      from.stride(1) != 1) {
    to.add_(from.sum(0));
    return;
  }
  const auto columns = from.size(1), strips = (columns + 63) / 64;
  auto* p = to.mutable_data_ptr<float>();
  with_type(from, [&]<class T>(T*) {
    const auto* q = from.const_data_ptr<T>();
    at::parallel_for(0, strips, 1, [&](std::int64_t begin, std::int64_t end) {
      const auto first = begin * 64, last = std::min(end * 64, columns);
      simd::run<detail::ColumnSumKernel>(p + first, q + first, from.stride(0), from.size(0), last - first);
    });
  });
}

}  // namespace offsite::ops
