#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstdint>

#include "offsite/ops/simd.hpp"
#include "offsite/ops/store_tile.hpp"
#include "offsite/ops/tiled_product.hpp"

namespace offsite::ops {

/// Products of few rows of bfloat16 or float32, as y^T = b^T a^T: a weight that is dense along the depth is then the
/// tiles' left factor as it lies in memory, and the few rows are what is packed.
///
/// A product with few rows takes as long as what it does to the weight, and oneDNN's own packs it at every call. A number
/// has the bits that `TiledProduct` would give.
struct TransposedProduct {
  /// Whether `y = a b` can be computed here: where `TiledProduct` works, with `a` (rows, depth) in rows of whole
  /// cells of 32 bits, `b` (depth, columns) dense along the depth, and neither too few rows nor so many that packing
  /// `b` pays.
  [[nodiscard]] static bool serves(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias = {}) {
    return TiledProduct::usable(a, b, kFewestRows) && a.size(0) < TiledProduct::fewest_rows(a, b) &&
           b.stride(0) == 1 && TiledProduct::in_cells(a, a.size(1)) &&
           TiledProduct::in_cells(a, a.stride(0)) && TiledProduct::aligned(a) &&
           TiledProduct::addable(a, bias);
  }

  /// a b + bias: `a` (rows, depth), `b` (depth, columns), `bias` (columns) or undefined, dense.
  [[nodiscard]] static at::Tensor run(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias) {
    at::Tensor y = at::empty({a.size(0), b.size(1)}, a.options());
    const TiledProduct::Observed observed(a, b);
    with_type(a, [&]<class T>(T*) {
      multiply<T>(b, detail::RightFactor<T>(a.t()), bias, y.mutable_data_ptr<T>());
    });
    return y;
  }

 private:
  /// y = (b^T a^T + bias)^T, with some rows of b^T at a time.
  template <class T>
  static void multiply(const at::Tensor& b, const detail::RightFactor<T>& a, const at::Tensor& bias, T* y) {
    constexpr auto kPanel = detail::RightFactor<T>::kPanel;
    const at::Tensor memory = at::empty({a.padded() * a.cells()}, at::kInt);
    auto* packed = reinterpret_cast<std::uint32_t*>(memory.mutable_data_ptr<std::int32_t>());
    const auto columns = b.size(1), units = (columns + kRows - 1) / kRows,
               panels = (a.padded() + kPanel - 1) / kPanel;
    const auto pack = [&](std::int64_t i) {
      a.pack(i * kPanel, std::min((i + 1) * kPanel, a.padded()), packed + i * kPanel * a.cells());
    };
    Preparations packing(panels);
    share_work(packing, pack, units, units, [&](std::int64_t begin, std::int64_t end) {
      alignas(64) float c[kRows * kPanel], transposed[kPanel * kRows];
      for (auto unit = begin; unit < end; ++unit) {
        const auto top = unit * kRows, rows = std::min(kRows, columns - top);
        for (std::int64_t first = 0; first < a.padded(); first += kPanel) {
          packing.wait(first / kPanel);
          const auto width = a.width(first);
          sums<T>(b, top, rows, a, first, packed + first * a.cells(), c);
          simd::run<detail::TransposeKernel>(reinterpret_cast<const std::uint32_t*>(c), width,
                                             reinterpret_cast<std::uint32_t*>(transposed), kRows, rows,
                                             width);
          detail::StoreTile::run(transposed, kRows, detail::bias_from<T>(bias, top),
                                 y + first * columns + top, columns, std::min(width, a.columns - first),
                                 rows);
        }
      }
    });
  }

  /// c (rows, width) = rows from `top` of b^T times the panel of a^T from `first`.
  template <class T>
  static void sums(const at::Tensor& b, std::int64_t top, std::int64_t rows, const detail::RightFactor<T>& a,
                   std::int64_t first, const std::uint32_t* panel, float* c) {
    using Tile = detail::ProductTile<T>;
    using Sums = detail::StoreSums<float>;
    const auto row = b.stride(1) * std::int64_t{sizeof(T)}, width = a.width(first), end = top + rows;
    const detail::Strips strips(rows, Tile::kRows);
    // The weight's next rows lie behind these: each tile fetches its share of them.
    const bool more = end < b.size(1);
    const auto tiles = (a.padded() + a.kPanel - 1) / a.kPanel * strips.count,
               share = more ? std::min(kRows, b.size(1) - end) * row / tiles : 0;
    const auto* data = reinterpret_cast<const char*>(b.const_data_ptr<T>());
    const auto* next = data + (more ? end : top) * row + first / a.kPanel * strips.count * share;
    for (std::int64_t strip = 0; strip < strips.count; ++strip, next += share) {
      const detail::LeftCells left{.data = data + (top + strips.top(strip)) * row,
                                   .row = row,
                                   .step = sizeof *panel,
                                   .next = next,
                                   .next_step = share / a.cells()};
      Tile::template function<Sums>(strips.rows(strip), width)(
          left, panel, a.cells(), width, Sums{c + strips.top(strip) * width, width, nullptr});
    }
  }

  // Some rows of the weight stay in the second cache until all of `a` has met them.
  static constexpr std::int64_t kRows = 48, kFewestRows = 8;
};

}  // namespace offsite::ops
