#pragma once
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <ATen/core/Tensor.h>
#include <ATen/native/CPUBlas.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "offsite/ops/interleave.hpp"
#include "offsite/ops/share_work.hpp"
#include "offsite/ops/simd.hpp"

// Products of bfloat16 matrices out of tiles that are finished while they are in the first cache. oneDNN's own product
// chooses its blocks for other processors: on Zen 4 it is 5 to 10 % slower.

namespace offsite::ops {
namespace detail {

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

/// The right factor (depth, columns) of a product, some columns at a time, as cells of 32 bits: two numbers of one column
/// that are multiplied one after the other.
struct RightFactor {
  const simd::BFloat16* data;
  std::int64_t depth, columns, row_stride, column_stride;  // one of the strides is 1

  explicit RightFactor(const at::Tensor& b)
      : data(b.const_data_ptr<simd::BFloat16>()),
        depth(b.size(0)),
        columns(b.size(1)),
        row_stride(b.stride(0)),
        column_stride(b.stride(1)) {}

  /// Columns [first, first + count) -> (depth / 2, width) cells, zeros beyond the factor's own.
  void pack(std::int64_t first, std::int64_t count, std::int64_t width, std::uint32_t* to) const {
    if (count < width) std::memset(to, 0, static_cast<std::size_t>(depth / 2 * width) * sizeof *to);
    if (column_stride == 1) {
      const auto* even = data + first;
      for (std::int64_t i = 0; i < depth; i += 2, even += 2 * row_stride, to += width)
        simd::run<PairRowsKernel>(even, even + row_stride, to, count);
    } else {
      const auto* cells = reinterpret_cast<const std::uint32_t*>(data + first * column_stride);
      simd::run<TransposeKernel>(cells, column_stride / 2, to, width, count, depth / 2);
    }
  }
};

/// Columns [start, stop) of a right factor in panels, the last of which may be narrower and reach beyond the factor.
struct Panels {
  const RightFactor& factor;
  std::int64_t start, stop, widest;
  std::uint32_t* memory;  ///< (stop - start) * depth / 2 cells

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
  [[nodiscard]] const simd::BFloat16* packed(std::int64_t panel) const {
    return reinterpret_cast<const simd::BFloat16*>(cells(panel));
  }

 private:
  [[nodiscard]] std::uint32_t* cells(std::int64_t panel) const {
    return memory + panel * widest * (factor.depth / 2);
  }
};

/// The rows of a tile from `top`, of `rows` >= kMost: the last tile's height is a multiple of sixteen, too, and
/// reaches up into the tile above, since the micro-kernel is compiled for each height.
struct TileRows {
  static constexpr std::int64_t kMost = 64;
  std::int64_t wanted, above;  ///< `above` rows before the wanted ones are computed again

  TileRows(std::int64_t top, std::int64_t rows)
      : wanted(std::min(kMost, rows - top)), above(simd::round_up(wanted, simd::kLanes) - wanted) {}
};

/// Packs the panels of a right factor and calls `compute(top, panel)` for each tile of its product with `rows`
/// rows; threads share both. Some tiles one below the other meet all panels before the next ones: their rows
/// stay in the second cache.
template <class Compute>
void share_tiles(std::int64_t rows, const Panels& panels, Compute&& compute) {
  constexpr std::int64_t kTogether = 8;
  const auto width = panels.count(), height = (rows + TileRows::kMost - 1) / TileRows::kMost,
             groups = (height + kTogether - 1) / kTogether, tall = (height + groups - 1) / groups;
  const auto pack = [&](std::int64_t panel) { panels.pack(panel); };
  Preparations packing(width);
  share_work(packing, pack, groups * width * tall, tall, [&](std::int64_t begin, std::int64_t end) {
    for (auto i = begin; i < end; ++i) {
      const auto group = i / (tall * width), panel = i / tall % width,
                 top = (group * tall + i % tall) * TileRows::kMost;
      if (top >= rows) continue;  // the last group may have fewer tiles
      packing.wait(panel);
      compute(top, panel);
    }
  });
}

/// y = c + bias, rounded to nearest even, for a tile of sums.
struct StoreTile {
#if defined(__x86_64__)
  [[gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]] static void run(
      const float* c, std::int64_t c_ld, const float* bias, simd::BFloat16* y, std::int64_t y_ld,
      std::int64_t rows, std::int64_t columns) {
    for (std::int64_t j = 0; j < columns; j += simd::kLanes) {
      const auto lanes = static_cast<__mmask16>((1u << std::min(simd::kLanes, columns - j)) - 1);
      const __m512 add = bias == nullptr ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(lanes, bias + j);
      for (std::int64_t i = 0; i < rows; ++i)
        _mm256_mask_storeu_epi16(y + i * y_ld + j, lanes,
                                 reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(
                                     _mm512_add_ps(_mm512_loadu_ps(c + i * c_ld + j), add))));
    }
  }
#else
  static void run(const float*, std::int64_t, const float*, simd::BFloat16*, std::int64_t, std::int64_t,
                  std::int64_t) {}
#endif
};

}  // namespace detail

/// Products of bfloat16 matrices, summed in float32, by oneDNN's micro-kernel, which LibTorch exports.
struct TiledProduct {
  /// Whether `y = a b` can be computed here: on processors with AVX-512's products of bfloat16 and without AMX, whose own
  /// products are better, with rows of `a` and rows or columns of `b` dense, and enough rows to pay for packing `b`.
  [[nodiscard]] static bool serves(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias = {}) {
    return (b.stride(1) == 1 || (b.stride(0) == 1 && b.stride(1) % 2 == 0 && aligned(b))) && pairs(a) &&
           addable(bias) && usable(a, b);
  }
  /// What every product in tiles asks for: `fewest` rows of `a`, dense ones, and not too few columns of `b`.
  [[nodiscard]] static bool usable(const at::Tensor& a, const at::Tensor& b,
                                   std::int64_t fewest = kFewestRows) {
    return simd::chosen_isa() == simd::Isa::kAvx512Bf16 && !c10::GradMode::is_enabled() && a.is_cpu() &&
           b.is_cpu() && a.scalar_type() == at::kBFloat16 && b.scalar_type() == at::kBFloat16 &&
           a.size(0) >= fewest && a.stride(1) == 1 && b.size(1) >= kUnit && works();
  }
  /// Whether the depth splits into pairs.
  [[nodiscard]] static bool pairs(const at::Tensor& a) { return a.size(1) % 2 == 0 && a.size(1) > 0; }
  /// Whether the bias, if there is one, can be added on the way.
  [[nodiscard]] static bool addable(const at::Tensor& bias) {
    return !bias.defined() || (bias.scalar_type() == at::kBFloat16 && bias.is_contiguous());
  }
  [[nodiscard]] static bool aligned(const at::Tensor& t) {
    return reinterpret_cast<std::uintptr_t>(t.const_data_ptr()) % alignof(std::uint32_t) == 0;
  }
  /// Fewer rows do not pay for packing `b`.
  static constexpr std::int64_t kFewestRows = 512;

  /// For profilers, which see LibTorch's operators but not this: called when a product begins and ends, if it is set.
  using Observer = void (*)(const at::Tensor& a, const at::Tensor& b, bool begins);
  static inline Observer observer = nullptr;
  struct Observed {
    const at::Tensor a, b;
    Observed(const at::Tensor& left, const at::Tensor& right) : a(left), b(right) {
      if (observer != nullptr) observer(a, b, true);
    }
    ~Observed() {
      if (observer != nullptr) observer(a, b, false);
    }
    Observed(const Observed&) = delete;
    Observed& operator=(const Observed&) = delete;
  };

  /// a b + bias: `a` (rows, depth), `b` (depth, columns), `bias` (columns) or undefined, dense.
  [[nodiscard]] static at::Tensor run(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias) {
    const auto columns = b.size(1), pairs = b.size(0) / 2;
    at::Tensor y = at::empty({a.size(0), columns}, a.options());
    const Observed observed(a, b);
    const detail::RightFactor right(b);
    const at::Tensor added = bias.defined() ? bias.to(at::kFloat) : bias;
    const auto* q = bias.defined() ? added.const_data_ptr<float>() : nullptr;
    auto* r = y.mutable_data_ptr<simd::BFloat16>();
    // Some megabytes of `b` are packed at a time.
    const auto widest = std::clamp(kPanelCells / pairs / kUnit * kUnit, kUnit, kWidest),
               most = std::max(kPackedCells / (pairs * widest), std::int64_t{1}) * widest,
               padded = simd::round_up(columns, kUnit);
    auto* packed = reinterpret_cast<std::uint32_t*>(simd::Scratch::floats(pairs * std::min(most, padded)));
    for (std::int64_t start = 0; start < padded; start += most)
      multiply(a, {right, start, std::min(start + most, padded), widest, packed}, q, r);
    return y;
  }

 private:
  /// Some columns of y = a b + bias.
  static void multiply(const at::Tensor& a, const detail::Panels& b, const float* bias, simd::BFloat16* y) {
    const auto rows = a.size(0), depth = a.size(1), ld = a.stride(0), columns = b.factor.columns;
    const auto* p = a.const_data_ptr<simd::BFloat16>();
    detail::share_tiles(rows, b, [&](std::int64_t top, std::int64_t panel) {
      alignas(64) float c[detail::TileRows::kMost * kWidest];
      const detail::TileRows tile(top, rows);
      const auto first = b.first(panel), width = b.width(panel);
      at::native::cpublas::brgemm(tile.above + tile.wanted, width, depth, ld, width, width, false,
                                  p + (top - tile.above) * ld, b.packed(panel), c);
      detail::StoreTile::run(c + tile.above * width, width, bias == nullptr ? bias : bias + first,
                             y + top * columns + first, columns, tile.wanted, b.columns(panel));
    });
  }

  // A tile of sums and a panel of `b` stay in the second cache, beside what of `a` meets them.
  static constexpr std::int64_t kUnit = 64, kWidest = 2 * kUnit, kPanelCells = 1 << 16,
                                kPackedCells = 1 << 21;

  /// Not every LibTorch was built with the micro-kernel; processors with AMX are better served by oneDNN's products.
  [[nodiscard]] static bool works() {
    static const bool found = [] {
      if (at::native::cpublas::could_pack(at::kBFloat16)) return false;  // true with AMX alone
      const simd::BFloat16 a[2 * simd::kLanes] = {}, b[2 * simd::kLanes] = {};
      float c[simd::kLanes * simd::kLanes];
      try {
        at::native::cpublas::brgemm(simd::kLanes, simd::kLanes, 2, 2, simd::kLanes, simd::kLanes, false, a, b,
                                    c);
        return true;
      } catch (const c10::Error&) {
        return false;
      }
    }();
    return found;
  }
};

}  // namespace offsite::ops
