#pragma once
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "offsite/ops/simd.hpp"

namespace offsite::ops {
namespace detail {

struct AccumulateKernel {  // to[i] += from[i]
  static constexpr bool kUsesBFloat16 = true;

  template <simd::Isa isa, class To, class From>
  [[gnu::always_inline]] static void run(To* to, const From* from, std::int64_t n) {
    std::int64_t i = 0;
    for (; i + simd::kLanes <= n; i += simd::kLanes)
      simd::store<isa>(to + i, simd::load<isa>(to + i) + simd::load<isa>(from + i));
    if (i < n)
      simd::store_some(to + i, simd::load_some(to + i, n - i) + simd::load_some(from + i, n - i), n - i);
  }
};

/// to[j] += sum over rows of from[row][j] for j < columns, with room for as many `sums`. Rows are read end to end, some at
/// a time: strips of a few columns would be a page a row, which processors do not fetch ahead.
struct ColumnSumKernel {
  static constexpr bool kUsesBFloat16 = true;
  static constexpr std::int64_t kRows = 8;

  template <simd::Isa isa, class T>
  [[gnu::always_inline]] static void run(float* to, float* sums, const T* from, std::int64_t ld,
                                         std::int64_t rows, std::int64_t columns) {
    std::memset(sums, 0, static_cast<std::size_t>(columns) * sizeof *sums);
    for (; rows > 0; rows -= kRows, from += kRows * ld)
      add_rows<isa>(sums, from, ld, std::min(kRows, rows), columns);
    AccumulateKernel::run<isa>(to, sums, columns);
  }

 private:
  template <simd::Isa isa, class T>
  [[gnu::always_inline]] static void add_rows(float* sums, const T* from, std::int64_t ld, std::int64_t rows,
                                              std::int64_t columns) {
    std::int64_t j = 0;
    for (; j + simd::kLanes <= columns; j += simd::kLanes) {
      simd::Floats sum = simd::load(sums + j);
      if (rows == kRows)
#pragma GCC unroll 8
        for (std::int64_t r = 0; r < kRows; ++r) sum += simd::load<isa>(from + r * ld + j);
      else
        for (std::int64_t r = 0; r < rows; ++r) sum += simd::load<isa>(from + r * ld + j);
      simd::store(sums + j, sum);
    }
    const auto n = columns - j;
    if (n == 0) return;
    simd::Floats sum = simd::load_some(sums + j, n);
    for (std::int64_t r = 0; r < rows; ++r) sum += simd::load_some(from + r * ld + j, n);
    simd::store_some(sums + j, sum, n);
  }
};

[[nodiscard]] inline bool is_fast(const at::Tensor& t) {
  return t.is_cpu() && (t.scalar_type() == at::kFloat || t.scalar_type() == at::kBFloat16);
}

/// Whether one pass can go through both, number by number: dense, of one type and shape, on the CPU.
[[nodiscard]] inline bool is_like(const at::Tensor& a, const at::Tensor& b) {
  return is_fast(a) && b.is_cpu() && a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() &&
         a.is_contiguous() && b.is_contiguous();
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

/// to += from for `to` of float32 or of the type of `from`, and of the same shape; one pass. Rows of `to` may be strided.
///
/// ATen's add takes twice as long in bfloat16, and three times for mixed types. Other types and layouts go to it.
inline void accumulate(const at::Tensor& to, const at::Tensor& from) {
  const bool rows = to.dim() == 2 && to.stride(1) == 1 && from.stride(1) == 1;
  const bool flat = to.is_contiguous() && from.is_contiguous();
  const bool sums = to.scalar_type() == at::kFloat || to.scalar_type() == from.scalar_type();
  if (!detail::is_fast(from) || !sums || to.sizes() != from.sizes() || !(rows || flat)) {
    to.add_(from);
    return;
  }
  const auto add = [&]<class To, class From>(To* p, const From* q) {
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
  };
  with_type(from, [&]<class T>(T*) {
    const auto* q = from.const_data_ptr<T>();
    if (to.scalar_type() == at::kFloat)
      add(to.mutable_data_ptr<float>(), q);
    else
      add(to.mutable_data_ptr<T>(), q);
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
      simd::run<detail::ColumnSumKernel>(p + first, simd::Scratch::floats(last - first), q + first,
                                         from.stride(0), from.size(0), last - first);
    });
  });
}

}  // namespace offsite::ops
