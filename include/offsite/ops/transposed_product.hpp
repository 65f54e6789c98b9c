#pragma once
#include <ATen/Parallel.h>
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
    const auto rows = a.size(0), depth = a.size(1), columns = b.size(1), ld = b.stride(1);
    at::Tensor y = at::empty({rows, columns}, a.options());
    const TiledProduct::Observed observed(a, b);
    const at::Tensor added = bias.defined() ? bias.to(at::kFloat) : bias;
    const auto* q = bias.defined() ? added.const_data_ptr<float>() : nullptr;
    auto* r = y.mutable_data_ptr<simd::BFloat16>();

    const detail::RightFactor right(a.t());
    const auto padded = simd::round_up(rows, simd::kLanes);
    const at::Tensor memory = at::empty({padded * (depth / 2)}, at::kInt);
    auto* packed = reinterpret_cast<std::uint32_t*>(memory.mutable_data_ptr<std::int32_t>());
    at::parallel_for(0, (padded + kWidth - 1) / kWidth, 1, [&](std::int64_t begin, std::int64_t end) {
      for (auto first = begin * kWidth; first < std::min(padded, end * kWidth); first += kWidth)
        right.pack(first, std::min(kWidth, rows - first), std::min(kWidth, padded - first),
                   packed + first * (depth / 2));
    });

    const auto* p = b.const_data_ptr<simd::BFloat16>();
    at::parallel_for(0, (columns + kHeight - 1) / kHeight, 1, [&](std::int64_t begin, std::int64_t end) {
      const auto stop = std::min(columns, end * kHeight);
      float* c = simd::Scratch::floats(2 * kHeight * kWidth);
      float* transposed = c + kHeight * kWidth;
      for (auto group = begin * kHeight; group < stop; group += kGroup * kHeight)
        for (std::int64_t first = 0; first < padded; first += kWidth) {
          const auto width = std::min(kWidth, padded - first), count = std::min(width, rows - first);
          const auto* panel = reinterpret_cast<const simd::BFloat16*>(packed + first * (depth / 2));
          for (auto top = group; top < std::min(stop, group + kGroup * kHeight); top += kHeight) {
            // The last tile reaches up into the one above, as in TiledProduct.
            const auto wanted = std::min(kHeight, columns - top);
            const auto above = std::min(columns, simd::round_up(wanted, simd::kLanes)) - wanted;
            at::native::cpublas::brgemm(wanted + above, width, depth, ld, width, width, false,
                                        p + (top - above) * ld, panel, c);
            simd::run<detail::TransposeKernel>(reinterpret_cast<const std::uint32_t*>(c + above * width),
                                               width, reinterpret_cast<std::uint32_t*>(transposed), kHeight,
                                               wanted, width);
            detail::StoreTile::run(transposed, kHeight, q == nullptr ? q : q + top, r + first * columns + top,
                                   columns, count, wanted);
          }
        }
    });
    return y;
  }

 private:
  // Tiles of 64 x 64 sums; some of the weight's rows meet all panels while they are in the second cache. Fewer rows
  // take as long as reading the weight in every way.
  static constexpr std::int64_t kHeight = 64, kWidth = 64, kGroup = 8, kFewestRows = 8;
};

}  // namespace offsite::ops
