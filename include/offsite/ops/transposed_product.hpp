#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/native/CPUBlas.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstdint>

#include "offsite/ops/simd.hpp"
#include "offsite/ops/tiled_product.hpp"

namespace offsite::ops {

/// Products of few rows of bfloat16 or float32, as y^T = b^T a^T: a weight that is dense along the depth is then the
/// micro-kernel's left factor as it lies in memory, and the few rows are what is packed.
///
/// A product with few rows takes as long as what it does to the weight, and oneDNN's own packs it at every call: on
/// Zen 4 this one is 1.4 times as fast with 16 rows, 1.2 times with 43 and 64, as fast from 116 to 256, and 1.03 times
/// with 460. In float32 it is 2 times as fast with 16 rows, 1.4 times with 43 and 64, 1.1 times with 116 and 200. A
/// number has the bits that `TiledProduct` would give.
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
    const auto rows = a.size(0), padded = simd::round_up(rows, simd::kLanes);
    at::Tensor y = at::empty({rows, b.size(1)}, a.options());
    const TiledProduct::Observed observed(a, b);
    with_type(a, [&]<class T>(T*) {
      const detail::RightFactor<T> right(a.t());
      auto* packed =
          reinterpret_cast<std::uint32_t*>(simd::Scratch::floats(padded * (right.depth / right.kPer)));
      multiply<T>(b, {right, 0, padded, kWidth, packed}, bias, y.mutable_data_ptr<T>());
    });
    return y;
  }

 private:
  /// y = (b^T a^T + bias)^T, the rows of b^T in tiles.
  template <class T>
  static void multiply(const at::Tensor& b, const detail::Panels<T>& a, const at::Tensor& bias, T* y) {
    constexpr auto kHeight = detail::TileRows::kMost, kPart = TiledProduct::kPart<T>;
    const auto columns = b.size(1), depth = b.size(0), ld = b.stride(1);
    const auto* p = b.const_data_ptr<T>();
    detail::share_tiles(columns, a, [&](std::int64_t top, std::int64_t panel) {
      alignas(64) float c[kHeight * kWidth], transposed[kWidth * kHeight];
      const detail::TileRows tile(top, columns);
      const auto first = a.first(panel), width = a.width(panel);
      for (std::int64_t from = 0; from < depth; from += kPart)
        at::native::cpublas::brgemm(tile.above + tile.wanted, width, std::min(kPart, depth - from), ld, width,
                                    width, from > 0, p + (top - tile.above) * ld + from,
                                    a.packed(panel) + from * width, c);
      simd::run<detail::TransposeKernel>(reinterpret_cast<const std::uint32_t*>(c + tile.above * width),
                                         width, reinterpret_cast<std::uint32_t*>(transposed), kHeight,
                                         tile.wanted, width);
      detail::StoreTile::run(transposed, kHeight, detail::bias_from<T>(bias, top), y + first * columns + top,
                             columns, a.columns(panel), tile.wanted);
    });
  }

  // Fewer rows take as long as reading the weight in every way.
  static constexpr std::int64_t kWidth = 64, kFewestRows = 8;
};

}  // namespace offsite::ops
