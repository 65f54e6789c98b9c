#pragma once
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "offsite/ops/interleave.hpp"
#include "offsite/ops/simd.hpp"

// How oneDNN's micro-kernel wants a product's right factor: in cells of 32 bits, each of which holds what is multiplied at a
// time of one column: a number of float32, or two of bfloat16.

namespace offsite::ops::detail {

/// Numbers of type T in a cell.
template <class T>
inline constexpr auto kPerCell = static_cast<std::int64_t>(sizeof(std::uint32_t) / sizeof(T));

/// Numbers of two rows side by side, as the instructions for pairs want them.
struct PairRowsKernel {  // to[2j], to[2j + 1] = first[j], second[j]
  template <simd::Isa>
  [[gnu::always_inline]] static void run(const simd::BFloat16* first, const simd::BFloat16* second,
                                         std::uint32_t* to, std::int64_t n) {
    std::int64_t j = 0;
    for (; j + simd::kLanes <= n; j += simd::kLanes) {
      SixteenHalves even, odd;
      std::memcpy(&even, first + j, sizeof even);
      std::memcpy(&odd, second + j, sizeof odd);
      store_pairs(to + j, even, odd);
    }
    for (; j < n; ++j) to[j] = std::uint32_t{first[j].x} | std::uint32_t{second[j].x} << 16;
  }
};

/// (rows, columns) cells of 32 bits -> the same, closer together.
struct CopyRowsKernel {
  template <simd::Isa>
  [[gnu::always_inline]] static void run(const std::uint32_t* from, std::int64_t from_ld, std::uint32_t* to,
                                         std::int64_t to_ld, std::int64_t rows, std::int64_t columns) {
    for (std::int64_t i = 0; i < rows; ++i, from += from_ld, to += to_ld) {
      std::int64_t j = 0;
      for (; j + simd::kLanes <= columns; j += simd::kLanes)
        std::memcpy(to + j, from + j, sizeof(std::uint32_t) * simd::kLanes);
      for (; j < columns; ++j) to[j] = from[j];
    }
  }
};

/// (rows, columns) cells of 32 bits -> (columns, rows), sixteen by sixteen where there are so many.
struct TransposeKernel {
  template <simd::Isa>
  [[gnu::always_inline]] static void run(const std::uint32_t* from, std::int64_t from_ld, std::uint32_t* to,
                                         std::int64_t to_ld, std::int64_t rows, std::int64_t columns) {
    std::int64_t i = 0;
    for (; i + simd::kLanes <= rows; i += simd::kLanes) {
      std::int64_t j = 0;
      for (; j + simd::kLanes <= columns; j += simd::kLanes)
        transpose_block(from + i * from_ld + j, from_ld, to + j * to_ld + i, to_ld);
      for (; j < columns; ++j)
        for (std::int64_t r = i; r < i + simd::kLanes; ++r) to[j * to_ld + r] = from[r * from_ld + j];
    }
    for (; i < rows; ++i)
      for (std::int64_t j = 0; j < columns; ++j) to[j * to_ld + i] = from[i * from_ld + j];
  }
};

/// The cells of a matrix whose rows are dense and of whole cells.
template <class T>
[[nodiscard]] const std::uint32_t* cells(const T* numbers) {
  return reinterpret_cast<const std::uint32_t*>(numbers);
}

/// The right factor (depth, columns) of a product, some columns at a time, as cells.
template <class T>
struct RightFactor {
  static constexpr auto kPer = kPerCell<T>;
  const T* data;
  std::int64_t depth, columns, row_stride, column_stride;  // one of the strides is 1

  explicit RightFactor(const at::Tensor& b)
      : data(b.const_data_ptr<T>()),
        depth(b.size(0)),
        columns(b.size(1)),
        row_stride(b.stride(0)),
        column_stride(b.stride(1)) {}

  /// Columns [first, first + count) -> (depth / kPer, width) cells, zeros beyond the factor's own.
  void pack(std::int64_t first, std::int64_t count, std::int64_t width, std::uint32_t* to) const {
    if (count < width) std::memset(to, 0, static_cast<std::size_t>(depth / kPer * width) * sizeof *to);
    if (column_stride != 1) {
      simd::run<TransposeKernel>(cells(data + first * column_stride), column_stride / kPer, to, width, count,
                                 depth / kPer);
    } else if constexpr (kPer == 1) {
      simd::run<CopyRowsKernel>(cells(data + first), row_stride, to, width, depth, count);
    } else {
      const auto* even = data + first;
      for (std::int64_t i = 0; i < depth; i += 2, even += 2 * row_stride, to += width)
        simd::run<PairRowsKernel>(even, even + row_stride, to, count);
    }
  }
};

/// Columns [start, stop) of a right factor in panels, the last of which may be narrower and reach beyond the factor.
template <class T>
struct Panels {
  const RightFactor<T>& factor;
  std::int64_t start, stop, widest;
  std::uint32_t* memory;  ///< (stop - start) * depth / kPer cells

  [[nodiscard]] std::int64_t count() const { return (stop - start + widest - 1) / widest; }
  [[nodiscard]] std::int64_t first(std::int64_t panel) const { return start + panel * widest; }
  [[nodiscard]] std::int64_t width(std::int64_t panel) const { return std::min(widest, stop - first(panel)); }
  /// How many columns are the factor's own; zeros follow.
  [[nodiscard]] std::int64_t columns(std::int64_t panel) const {
    return std::min(width(panel), factor.columns - first(panel));
  }
  void pack(std::int64_t panel) const {
    factor.pack(first(panel), columns(panel), width(panel), cells(panel));
  }
  [[nodiscard]] const T* packed(std::int64_t panel) const { return reinterpret_cast<const T*>(cells(panel)); }

 private:
  [[nodiscard]] std::uint32_t* cells(std::int64_t panel) const {
    return memory + panel * widest * (factor.depth / factor.kPer);
  }
};

}  // namespace offsite::ops::detail
