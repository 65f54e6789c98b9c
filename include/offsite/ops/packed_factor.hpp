#pragma once
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "offsite/ops/interleave.hpp"
#include "offsite/ops/simd.hpp"

// How `ProductTile` wants a product's right factor: in cells of 32 bits, each of which holds what is multiplied at a time of one
// column: a number of float32, or two of bfloat16.

namespace offsite::ops::detail {

/// Numbers of type T in a cell.
template <class T>
inline constexpr auto kPerCell = static_cast<std::int64_t>(sizeof(std::uint32_t) / sizeof(T));

/// (depth, columns) numbers in dense rows -> panels of `panel` columns, one after the other: each (cells, panel), the last as
/// narrow as its columns allow in multiples of sixteen, with zeros where the factor ends in the middle of a cell or before a
/// panel does. `panel` is a multiple of sixteen. Rows are read as far as they go, since a panel's part of one is short.
template <class T>
struct PackRowsKernel {
  template <simd::Isa>
  [[gnu::always_inline]] static void run(const T* from, std::int64_t ld, std::int64_t depth,
                                         std::int64_t columns, std::int64_t panel, std::uint32_t* to) {
    constexpr auto kPer = kPerCell<T>;
    const auto cells = (depth + kPer - 1) / kPer;
    for (std::int64_t k = 0; k < cells; ++k, from += kPer * ld) {
      const bool whole = (k + 1) * kPer <= depth;
      prefetch(from + kAhead * kPer * ld, ld, columns);
      for (std::int64_t first = 0; first < columns; first += panel) {
        const auto width = std::min(panel, simd::round_up(columns - first, simd::kLanes));
        auto* cell = to + first * cells + k * width;
        for (auto j = first; j < first + width; j += simd::kLanes, cell += simd::kLanes) {
          if (whole && j + simd::kLanes <= columns)
            sixteen(from + j, ld, cell);
          else
            some(from + j, ld, whole, std::clamp(columns - j, std::int64_t{0}, simd::kLanes), cell);
        }
      }
    }
  }

 private:
  static constexpr std::int64_t kAhead = 8;  // cells

  /// Brings a row of cells into the first cache: rows of a few columns are too short for the processor to foresee which
  /// numbers come next. It may lie behind the last one.
  [[gnu::always_inline]] static void prefetch(const T* from, std::int64_t ld, std::int64_t columns) {
    constexpr auto kLine = std::int64_t{64 / sizeof(T)};
    for (std::int64_t j = 0; j < columns; j += kLine)
      for (std::int64_t i = 0; i < kPerCell<T>; ++i) __builtin_prefetch(from + i * ld + j);
  }
  [[gnu::always_inline]] static void sixteen(const T* from, std::int64_t ld, std::uint32_t* cell) {
    if constexpr (kPerCell<T> == 1) {
      std::memcpy(cell, from, sizeof *cell * simd::kLanes);
    } else {
      SixteenHalves even, odd;
      std::memcpy(&even, from, sizeof even);
      std::memcpy(&odd, from + ld, sizeof odd);
      store_pairs(cell, even, odd);
    }
  }
  [[gnu::always_inline]] static void some(const T* from, std::int64_t ld, bool whole, std::int64_t columns,
                                          std::uint32_t* cell) {
    std::memset(cell, 0, sizeof *cell * simd::kLanes);
    for (std::int64_t j = 0; j < columns; ++j) {
      T numbers[kPerCell<T>] = {from[j]};
      if (kPerCell<T> == 2 && whole) numbers[kPerCell<T> - 1] = from[ld + j];
      std::memcpy(cell + j, numbers, sizeof numbers);
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

/// The right factor (depth, columns) of a product in panels of 32 columns, the last one of 16 if no more are left.
template <class T>
struct RightFactor {
  static constexpr auto kPer = kPerCell<T>;
  static constexpr std::int64_t kPanel = 2 * simd::kLanes;
  const T* data;
  std::int64_t depth, columns, row_stride, column_stride;  // one of the strides is 1

  explicit RightFactor(const at::Tensor& b)
      : data(b.const_data_ptr<T>()),
        depth(b.size(0)),
        columns(b.size(1)),
        row_stride(b.stride(0)),
        column_stride(b.stride(1)) {}

  /// Cells of a column; where columns are dense, of whole ones alone.
  [[nodiscard]] std::int64_t cells() const { return (depth + kPer - 1) / kPer; }
  /// Packed columns.
  [[nodiscard]] std::int64_t padded() const { return simd::round_up(columns, simd::kLanes); }
  /// Columns of the panel from `first`, with those of zeros.
  [[nodiscard]] std::int64_t width(std::int64_t first) const { return std::min(kPanel, padded() - first); }

  /// Panels from column `first`, a multiple of 32, to `last` -> (last - first) * cells() cells.
  void pack(std::int64_t first, std::int64_t last, std::uint32_t* to) const {
    const auto stop = std::min(last, columns);
    if (column_stride == 1) {
      simd::run<PackRowsKernel<T>>(data + first, row_stride, depth, stop - first, kPanel, to);
      return;
    }
    for (auto j = first; j < stop; j += kPanel) {
      const auto n = std::min(kPanel, stop - j);
      auto* panel = to + (j - first) * cells();
      if (n < width(j)) std::memset(panel, 0, static_cast<std::size_t>(width(j) * cells()) * sizeof *panel);
      simd::run<TransposeKernel>(detail::cells(data + j * column_stride), column_stride / kPer, panel,
                                 width(j), n, cells());
    }
  }
};

}  // namespace offsite::ops::detail
