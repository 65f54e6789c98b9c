#pragma once
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "offsite/ops/accumulate.hpp"
#include "offsite/ops/packed_factor.hpp"
#include "offsite/ops/product_tile.hpp"
#include "offsite/ops/share_work.hpp"
#include "offsite/ops/simd.hpp"
#include "offsite/ops/tiled_product.hpp"

// Gradients of weights in tiles; see product_tile.hpp. Summed in float32 to the end: oneDNN's product would round each to
// bfloat16, compile itself anew for every number of rows, and leave the sum to another pass.

namespace offsite::ops {
namespace detail {

/// Columns of a factor (depth, columns) in units of kColumns, packed in panels of kPanel of them.
template <class T, std::int64_t panel, std::int64_t panels>
struct ColumnUnits {
  static constexpr auto kPanel = panel, kColumns = panel * panels;
  const T* data;
  std::int64_t ld, depth, columns;

  explicit ColumnUnits(const at::Tensor& t)
      : data(t.const_data_ptr<T>()), ld(t.stride(0)), depth(t.size(0)), columns(t.size(1)) {}

  [[nodiscard]] std::int64_t count() const { return (columns + kColumns - 1) / kColumns; }
  /// Columns of a unit.
  [[nodiscard]] std::int64_t width(std::int64_t unit) const {
    return std::min(kColumns, columns - unit * kColumns);
  }
  /// Cells of a column, and of a unit.
  [[nodiscard]] std::int64_t depth_cells() const { return (depth + kPerCell<T> - 1) / kPerCell<T>; }
  [[nodiscard]] std::int64_t cells() const { return depth_cells() * kColumns; }
  void pack(std::int64_t unit, std::uint32_t* to) const {
    simd::run<PackRowsKernel<T>>(data + unit * kColumns, ld, depth, width(unit), kPanel, to);
  }
};

}  // namespace detail

/// gradient += a^T b, in units of 48 x 128 sums.
struct TiledGradient {
  /// Whether it can be computed here: `gradient` (rows, columns) float32, `a` (depth, rows) and `b` (depth, columns) of
  /// bfloat16 or float32, rows of all three dense, and not too few; where `TiledProduct` works, too.
  [[nodiscard]] static bool serves(const at::Tensor& gradient, const at::Tensor& a, const at::Tensor& b) {
    return gradient.scalar_type() == at::kFloat && gradient.stride(1) == 1 && b.stride(1) == 1 &&
           a.size(1) >= kFewestColumns && TiledProduct::usable(a, b, kFewestRows);
  }

  static void run(const at::Tensor& gradient, const at::Tensor& a, const at::Tensor& b) {
    // To transpose takes LibTorch a microsecond.
    const TiledProduct::Observed observed(TiledProduct::observer == nullptr ? a : a.t(), b);
    with_type(a, [&]<class T>(T*) { add<T>(gradient, Left<T>(a), Right<T>(b)); });
  }

 private:
  // A row of a tile is a column of the left factor: a panel has four tiles.
  template <class T>
  using Left = detail::ColumnUnits<T, 4 * detail::ProductTile<T>::kRows, 1>;
  template <class T>
  using Right = detail::ColumnUnits<T, detail::ProductTile<T>::kColumns, 4>;

  static constexpr std::int64_t kFewestRows = 24, kFewestColumns = 64;

  template <class T>
  static void add(const at::Tensor& gradient, const Left<T>& left, const Right<T>& right) {
    auto* to = gradient.mutable_data_ptr<float>();
    const auto ld = gradient.stride(0);
    const auto multiply = [&](std::int64_t i, const std::uint32_t* l, std::int64_t j,
                              const std::uint32_t* r) {
      add_unit(left, i, l, right, j, r, to + i * left.kColumns * ld + j * right.kColumns, ld);
    };
    if (left.columns <= right.columns)
      paired(left, right,
             [&](auto whole, const auto* w, auto own, const auto* o) { multiply(whole, w, own, o); });
    else
      paired(right, left,
             [&](auto whole, const auto* w, auto own, const auto* o) { multiply(own, o, whole, w); });
  }

  /// The sums of a unit of the left factor and one of the right factor.
  template <class T>
  static void add_unit(const Left<T>& left, std::int64_t i, const std::uint32_t* l, const Right<T>& right,
                       std::int64_t j, const std::uint32_t* r, float* to, std::int64_t ld) {
    using Tile = detail::ProductTile<T>;
    const auto cells = left.depth_cells(), wide = simd::round_up(left.width(i), simd::kLanes);
    const detail::Strips strips(left.width(i), Tile::kRows);
    for (std::int64_t column = 0; column < right.width(j); column += right.kPanel) {
      const auto n = std::min(right.kPanel, right.width(j) - column), width = simd::round_up(n, simd::kLanes);
      for (std::int64_t strip = 0; strip < strips.count; ++strip) {
        const auto top = strips.top(strip);
        const detail::LeftCells cell{.data = reinterpret_cast<const char*>(l + top),
                                     .row = sizeof *l,
                                     .step = wide * std::int64_t{sizeof *l}};
        Tile::template function<detail::AddSums>(strips.rows(strip), width)(
            cell, r + column * cells, cells, n, detail::AddSums{to + top * ld + column, ld});
      }
    }
  }

  /// Calls `f(unit of whole, packed, unit of own, packed)` for every two of them, in all threads.
  template <class Whole, class Own, class F>
  static void paired(const Whole& whole, const Own& own, F&& f) {
    // The smaller factor is packed whole and shared, the larger one by the thread that uses a unit of it, and at
    // once; but for its last units, which are shared, too, so that a free thread can help with them.
    const auto late = std::max(own.count() - 2 * at::get_num_threads(), std::int64_t{0});
    const at::Tensor memory =
        at::empty({whole.count() * whole.cells() + (own.count() - late) * own.cells()}, at::kInt);
    auto* shared = reinterpret_cast<std::uint32_t*>(memory.mutable_data_ptr<std::int32_t>());
    auto* last = shared + whole.count() * whole.cells();
    const auto pack = [&](std::int64_t i) {
      if (i < whole.count()) return whole.pack(i, shared + i * whole.cells());
      const auto j = i - whole.count();
      own.pack(late + j, last + j * own.cells());
    };
    Preparations packing(whole.count() + own.count() - late);
    share_work(packing, pack, own.count() * whole.count(), whole.count(), [&](auto begin, auto end) {
      auto* room = reinterpret_cast<std::uint32_t*>(simd::Scratch::floats(own.cells()));
      std::int64_t packed = -1;
      for (auto tile = begin; tile < end; ++tile) {
        const auto i = tile % whole.count(), j = tile / whole.count();
        if (j < late && std::exchange(packed, j) != j) own.pack(j, room);
        if (j >= late) packing.wait(whole.count() + j - late);
        packing.wait(i);
        f(i, shared + i * whole.cells(), j, j < late ? room : last + (j - late) * own.cells());
      }
    });
  }
};

}  // namespace offsite::ops
