#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/native/CPUBlas.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstdint>

#include "offsite/ops/simd.hpp"
#include "offsite/ops/tiled_product.hpp"

namespace offsite::ops {

/// Products of few rows of bfloat16, as y^T = b^T a^T: a weight that is dense along the depth is then the
/// micro-kernel's left factor as it lies in memory, and the few rows are what is packed.
///
/// A product with few rows takes as long as what it does to the weight, and oneDNN's own packs it at every call: on
/// Zen 4 this one is 1.4 times as fast with 16 rows, 1.2 times with 43 and 64, as fast from 116 to 256, and 1.03 times
/// with 460. A number has the bits that `TiledProduct` would give.
struct TransposedProduct {
  /// Whether `y = a b` can be computed here: where `TiledProduct` works, with `a` (rows, depth) in rows of whole
  /// cells of 32 bits, `b` (depth, columns) dense along the depth, and neither too few rows nor so many that packing
  /// `b` pays.
  [[nodiscard]] static bool serves(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias = {}) {
    return a.size(0) < TiledProduct::kFewestRows && b.stride(0) == 1 && a.stride(0) % 2 == 0 &&
           TiledProduct::usable(a, b, kFewestRows) && TiledProduct::pairs(a) && TiledProduct::addable(bias) &&
           TiledProduct::aligned(a);
  }

  /// a b + bias: `a` (rows, depth), `b` (depth, columns), `bias` (columns) or undefined, dense.
  [[nodiscard]] static at::Tensor run(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias) {
    const auto rows = a.size(0), padded = simd::round_up(rows, simd::kLanes);
    at::Tensor y = at::empty({rows, b.size(1)}, a.options());
    const TiledProduct::Observed observed(a, b);
    const at::Tensor added = bias.defined() ? bias.to(at::kFloat) : bias;
    const detail::RightFactor right(a.t());
    auto* packed = reinterpret_cast<std::uint32_t*>(simd::Scratch::floats(padded * (right.depth / 2)));
    multiply(b.t(), {right, 0, padded, kWidth, packed},
             bias.defined() ? added.const_data_ptr<float>() : nullptr, y.mutable_data_ptr<simd::BFloat16>());
    return y;
  }

 private:
  /// y = (w a^T + bias)^T, the weight's rows in tiles.
  static void multiply(const at::Tensor& w, const detail::Panels& a, const float* bias, simd::BFloat16* y) {
    constexpr auto kHeight = detail::TileRows::kMost;
    const auto columns = w.size(0), depth = w.size(1), ld = w.stride(0);
    const auto* p = w.const_data_ptr<simd::BFloat16>();
    detail::share_tiles(columns, a, [&](std::int64_t top, std::int64_t panel) {
      alignas(64) float c[kHeight * kWidth], transposed[kWidth * kHeight];
      const detail::TileRows tile(top, columns);
      const auto first = a.first(panel), width = a.width(panel);
      at::native::cpublas::brgemm(tile.above + tile.wanted, width, depth, ld, width, width, false,
                                  p + (top - tile.above) * ld, a.packed(panel), c);
      simd::run<detail::TransposeKernel>(reinterpret_cast<const std::uint32_t*>(c + tile.above * width),
                                         width, reinterpret_cast<std::uint32_t*>(transposed), kHeight,
                                         tile.wanted, width);
      detail::StoreTile::run(transposed, kHeight, bias == nullptr ? bias : bias + top,
                             y + first * columns + top, columns, a.columns(panel), tile.wanted);
    });
  }

  // Fewer rows take as long as reading the weight in every way.
  static constexpr std::int64_t kWidth = 64, kFewestRows = 8;
};

}  // namespace offsite::ops
