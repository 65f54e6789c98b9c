#pragma once
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/native/CPUBlas.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

#include "offsite/ops/accumulate.hpp"
#include "offsite/ops/share_work.hpp"
#include "offsite/ops/simd.hpp"
#include "offsite/ops/tiled_product.hpp"

// Gradients of weights in tiles; see tiled_product.hpp. Summed in float32 to the end: oneDNN's product would round each
// to bfloat16, compile itself anew for every number of rows, and leave the sum to another pass.

namespace offsite::ops {
namespace detail {

/// Columns of a factor (depth, columns) in units of some columns, packed for the micro-kernel, zeros beyond its end.
struct ColumnUnits {
  const simd::BFloat16* data;
  std::int64_t ld, depth, columns, padded;  // `padded` rows of zeros to a multiple that few kernels serve

  static constexpr std::int64_t kDepthStep = 32;

  explicit ColumnUnits(const at::Tensor& t)
      : data(t.const_data_ptr<simd::BFloat16>()),
        ld(t.stride(0)),
        depth(t.size(0)),
        columns(t.size(1)),
        padded(simd::round_up(depth, kDepthStep)) {}

  /// Rows [start, start + count) of columns [first, first + width) -> (count / 2, width) cells of two rows each.
  void pairs(std::int64_t first, std::int64_t width, std::int64_t start, std::int64_t count,
             std::uint32_t* to) const {
    const auto n = std::min(width, columns - first);
    const auto* even = data + start * ld + first;
    for (auto row = start; row < start + count; row += 2, even += 2 * ld, to += width) {
      if (row + 1 < depth)
        simd::run<PairRowsKernel>(even, even + ld, to, n);
      else if (row < depth)
        for (std::int64_t j = 0; j < n; ++j) to[j] = even[j].x;
      const auto written = row < depth ? n : 0;
      if (written < width)
        std::memset(to + written, 0, static_cast<std::size_t>(width - written) * sizeof *to);
    }
  }
};

/// The left factor, transposed: a unit is (depth / kBlock, kRows, kBlock).
struct LeftUnits : ColumnUnits {
  using ColumnUnits::ColumnUnits;
  static constexpr std::int64_t kColumns = 64, kBlock = 1024;

  [[nodiscard]] std::int64_t count() const { return (columns + kColumns - 1) / kColumns; }
  [[nodiscard]] std::int64_t cells() const { return simd::round_up(padded, kBlock) / 2 * kColumns; }
  /// \param room  of kBlock / 2 * kColumns cells
  void pack(std::int64_t unit, std::uint32_t* to, std::uint32_t* room) const {
    for (std::int64_t start = 0; start < padded; start += kBlock, to += kBlock / 2 * kColumns) {
      const auto n = std::min(kBlock, padded - start);
      pairs(unit * kColumns, kColumns, start, n, room);
      simd::run<TransposeKernel>(room, kColumns, to, kBlock / 2, n / 2, kColumns);
    }
  }
};

/// The right factor: a unit is (depth / 2, kColumns, 2).
struct RightUnits : ColumnUnits {
  using ColumnUnits::ColumnUnits;
  static constexpr std::int64_t kColumns = 128;

  [[nodiscard]] std::int64_t count() const { return (columns + kColumns - 1) / kColumns; }
  [[nodiscard]] std::int64_t cells() const { return padded / 2 * kColumns; }
  void pack(std::int64_t unit, std::uint32_t* to, std::uint32_t*) const {
    pairs(unit * kColumns, kColumns, 0, padded, to);
  }
};

}  // namespace detail

/// gradient += a^T b, in tiles of 64 x 128 sums.
struct TiledGradient {
  /// Whether it can be computed here: `gradient` (rows, columns) float32, `a` (depth, rows) and `b` (depth, columns) of
  /// bfloat16, rows of all three dense, and not too few; where `TiledProduct` works, too.
  [[nodiscard]] static bool serves(const at::Tensor& gradient, const at::Tensor& a, const at::Tensor& b) {
    return gradient.scalar_type() == at::kFloat && gradient.stride(1) == 1 && b.stride(1) == 1 &&
           a.scalar_type() == at::kBFloat16 && a.size(1) >= detail::LeftUnits::kColumns &&
           TiledProduct::usable(a, b, kFewestRows);
  }

  static void run(const at::Tensor& gradient, const at::Tensor& a, const at::Tensor& b) {
    // To transpose takes LibTorch a microsecond.
    const TiledProduct::Observed observed(TiledProduct::observer == nullptr ? a : a.t(), b);
    const detail::LeftUnits left(a);
    const detail::RightUnits right(b);
    auto* to = gradient.mutable_data_ptr<float>();
    const auto ld = gradient.stride(0);
    const auto multiplied = [&](std::int64_t i, const std::uint32_t* l, std::int64_t j,
                                const std::uint32_t* r, float* c) {
      constexpr auto kHeight = detail::LeftUnits::kColumns, kWidth = detail::RightUnits::kColumns,
                     kBlock = detail::LeftUnits::kBlock;
      for (std::int64_t start = 0; start < left.padded; start += kBlock)
        at::native::cpublas::brgemm(kHeight, kWidth, std::min(kBlock, left.padded - start), kBlock, kWidth,
                                    kWidth, start > 0,
                                    reinterpret_cast<const simd::BFloat16*>(l + start / 2 * kHeight),
                                    reinterpret_cast<const simd::BFloat16*>(r + start / 2 * kWidth), c);
      const auto rows = std::min(kHeight, left.columns - i * kHeight),
                 columns = std::min(kWidth, right.columns - j * kWidth);
      for (std::int64_t row = 0; row < rows; ++row)
        simd::run<detail::AccumulateKernel>(to + (i * kHeight + row) * ld + j * kWidth, c + row * kWidth,
                                            columns);
    };
    if (left.columns <= right.columns)
      paired(left, right, [&](auto whole, const auto* w, auto own, const auto* o, float* c) {
        multiplied(whole, w, own, o, c);
      });
    else
      paired(right, left, [&](auto whole, const auto* w, auto own, const auto* o, float* c) {
        multiplied(own, o, whole, w, c);
      });
  }

 private:
  // As many as are packed at least. Each number of rows would be one more product for oneDNN to compile and keep, 2 MB each.
  static constexpr std::int64_t kFewestRows = 24;

  template <class Whole, class Own, class F>
  static void paired(const Whole& whole, const Own& own, F&& f) {
    constexpr auto kRoom = detail::LeftUnits::kBlock / 2 * detail::LeftUnits::kColumns,
                   kSums = detail::LeftUnits::kColumns * detail::RightUnits::kColumns;
    // The smaller factor is packed whole and shared, the larger one by the thread that uses a unit of it, and at
    // once; but for its last units, which are shared, too, so that a free thread can help with them.
    const auto late = std::max(own.count() - 2 * at::get_num_threads(), std::int64_t{0});
    const at::Tensor memory =
        at::empty({whole.count() * whole.cells() + (own.count() - late) * own.cells()}, at::kInt);
    auto* shared = reinterpret_cast<std::uint32_t*>(memory.mutable_data_ptr<std::int32_t>());
    auto* last = shared + whole.count() * whole.cells();
    const auto pack = [&](std::int64_t i) {
      auto* room = reinterpret_cast<std::uint32_t*>(simd::Scratch::floats(kRoom));
      if (i < whole.count()) return whole.pack(i, shared + i * whole.cells(), room);
      const auto j = i - whole.count();
      own.pack(late + j, last + j * own.cells(), room);
    };
    Preparations packing(whole.count() + own.count() - late);
    share_work(packing, pack, own.count() * whole.count(), whole.count(), [&](auto begin, auto end) {
      float* sums = simd::Scratch::floats(kSums + kRoom + own.cells());
      auto* room = reinterpret_cast<std::uint32_t*>(sums + kSums);
      std::int64_t packed = -1;
      for (auto tile = begin; tile < end; ++tile) {
        const auto i = tile % whole.count(), j = tile / whole.count();
        if (j < late && std::exchange(packed, j) != j) own.pack(j, room + kRoom, room);
        if (j >= late) packing.wait(whole.count() + j - late);
        packing.wait(i);
        f(i, shared + i * whole.cells(), j, j < late ? room + kRoom : last + (j - late) * own.cells(), sums);
      }
    });
  }
};

}  // namespace offsite::ops
