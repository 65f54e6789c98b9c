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
#include <limits>
#include <type_traits>

#include "offsite/ops/accumulate.hpp"
#include "offsite/ops/packed_factor.hpp"
#include "offsite/ops/share_work.hpp"
#include "offsite/ops/simd.hpp"

// Products out of tiles that stay in a cache until they are finished. oneDNN's own product chooses its blocks for other
// processors: on Zen 4 it is 5 to 10 % slower.

namespace offsite::ops {
namespace detail {

/// The rows of a tile from `top`, of `rows` >= kMost: the last tile's height is a multiple of sixteen, too, and
/// reaches up into the tile above, since the micro-kernel is compiled for each height.
struct TileRows {
  static constexpr std::int64_t kMost = 64;
  std::int64_t wanted, above;  ///< `above` rows before the wanted ones are computed again

  TileRows(std::int64_t top, std::int64_t rows)
      : wanted(std::min(kMost, rows - top)), above(simd::round_up(wanted, simd::kLanes) - wanted) {}
};

/// Packs the panels of a right factor and calls `compute(top, panel)` for each tile of its product with `rows` rows;
/// threads share both. Some tiles one below the other meet all panels before the next ones do: they stay in the cache.
template <class T, class Compute>
void share_tiles(std::int64_t rows, const Panels<T>& panels, Compute&& compute) {
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

/// The numbers of a bias from `first`; null if there is none.
template <class T>
[[nodiscard]] const T* bias_from(const at::Tensor& bias, std::int64_t first) {
  return bias.defined() ? bias.const_data_ptr<T>() + first : nullptr;
}

/// y = c + bias for a tile of sums, rounded to nearest even for bfloat16. `bias` may be null.
struct StoreTile {
#if defined(__x86_64__)
  template <class T>
  [[gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]] static void run(
      const float* c, std::int64_t c_ld, const T* bias, T* y, std::int64_t y_ld, std::int64_t rows,
      std::int64_t columns) {
    for (std::int64_t j = 0; j < columns; j += simd::kLanes) {
      const auto lanes = static_cast<__mmask16>((1u << std::min(simd::kLanes, columns - j)) - 1);
      __m512 add = _mm512_setzero_ps();
      if (bias != nullptr) {
        if constexpr (sizeof(T) == sizeof(float))
          add = _mm512_maskz_loadu_ps(lanes, bias + j);
        else
          add = _mm512_castsi512_ps(_mm512_maskz_slli_epi32(
              lanes, _mm512_maskz_cvtepu16_epi32(lanes, _mm256_maskz_loadu_epi16(lanes, bias + j)), 16));
      }
      for (std::int64_t i = 0; i < rows; ++i) {
        const __m512 sum = _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, c + i * c_ld + j), add);
        if constexpr (sizeof(T) == sizeof(float))
          _mm512_mask_storeu_ps(y + i * y_ld + j, lanes, sum);
        else
          _mm256_mask_storeu_epi16(y + i * y_ld + j, lanes,
                                   reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(sum)));
      }
    }
  }
#else
  template <class T>
  static void run(const float*, std::int64_t, const T*, T*, std::int64_t, std::int64_t, std::int64_t) {}
#endif
};

}  // namespace detail

/// Products of bfloat16 or float32 matrices, summed in float32, by oneDNN's micro-kernel, which LibTorch exports.
struct TiledProduct {
  /// Whether `y = a b` can be computed here: on processors with AVX-512's products of bfloat16 and without AMX, whose own
  /// products are better, with rows of `a` and rows or columns of `b` dense, and enough rows to pay for packing `b`.
  [[nodiscard]] static bool serves(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias = {}) {
    return usable(a, b, fewest_rows(a, b)) && in_cells(a, a.size(1)) && addable(a, bias) &&
           (b.stride(1) == 1 || (b.stride(0) == 1 && in_cells(b, b.stride(1)) && aligned(b)));
  }
  /// What every product in tiles asks for: one of the two types, `fewest` rows of `a`, dense ones, something to sum, and not
  /// too few columns of `b`.
  [[nodiscard]] static bool usable(const at::Tensor& a, const at::Tensor& b, std::int64_t fewest) {
    return simd::chosen_isa() == simd::Isa::kAvx512Bf16 && !c10::GradMode::is_enabled() &&
           detail::is_fast(a) && b.is_cpu() && a.scalar_type() == b.scalar_type() && a.size(0) >= fewest &&
           a.size(1) > 0 && a.stride(1) == 1 && b.size(1) >= kUnit && works();
  }
  /// Whether `count` numbers of `t` fill cells of 32 bits.
  [[nodiscard]] static bool in_cells(const at::Tensor& t, std::int64_t count) {
    return count * t.element_size() % std::int64_t{sizeof(std::uint32_t)} == 0;
  }
  /// Whether the bias, if there is one, can be added on the way.
  [[nodiscard]] static bool addable(const at::Tensor& a, const at::Tensor& bias) {
    return !bias.defined() || (bias.scalar_type() == a.scalar_type() && bias.is_contiguous());
  }
  [[nodiscard]] static bool aligned(const at::Tensor& t) {
    return reinterpret_cast<std::uintptr_t>(t.const_data_ptr()) % alignof(std::uint32_t) == 0;
  }
  /// Fewer rows do not pay for packing `b`. Pairs along the depth are in place if `b` is dense there, and need no packing for
  /// `TransposedProduct`.
  [[nodiscard]] static std::int64_t fewest_rows(const at::Tensor& a, const at::Tensor& b) {
    return a.scalar_type() == at::kFloat || b.stride(1) == 1 ? 256 : 512;
  }
  /// What of the depth is summed at a time, so that what is multiplied stays in the second cache: of bfloat16, half as
  /// wide, all.
  template <class T>
  static constexpr std::int64_t kPart = std::is_same_v<T, float> ? 768
                                                                 : std::numeric_limits<std::int64_t>::max();

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
    at::Tensor y = at::empty({a.size(0), b.size(1)}, a.options());
    const Observed observed(a, b);
    with_type(a, [&]<class T>(T*) {
      const detail::RightFactor<T> right(b);
      const auto cells = right.depth / right.kPer, padded = simd::round_up(right.columns, kUnit);
      // Some megabytes of `b` are packed at a time.
      const auto widest = std::clamp(kPanelCells / std::min(cells, kPart<T>) / kUnit * kUnit, kUnit, kWidest),
                 most = std::max(kPackedCells / (cells * widest), std::int64_t{1}) * widest;
      auto* packed = reinterpret_cast<std::uint32_t*>(simd::Scratch::floats(cells * std::min(most, padded)));
      for (std::int64_t start = 0; start < padded; start += most)
        multiply<T>(a, {right, start, std::min(start + most, padded), widest, packed}, bias,
                    y.mutable_data_ptr<T>());
    });
    return y;
  }

 private:
  /// Some columns of y = a b + bias.
  template <class T>
  static void multiply(const at::Tensor& a, const detail::Panels<T>& b, const at::Tensor& bias, T* y) {
    const auto rows = a.size(0), depth = a.size(1), ld = a.stride(0), columns = b.factor.columns,
               part = std::min(depth, kPart<T>);
    const auto* p = a.const_data_ptr<T>();
    detail::share_tiles(rows, b, [&](std::int64_t top, std::int64_t panel) {
      alignas(64) float c[detail::TileRows::kMost * kWidest];
      const detail::TileRows tile(top, rows);
      const auto first = b.first(panel), width = b.width(panel);
      for (std::int64_t from = 0; from < depth; from += part)
        at::native::cpublas::brgemm(tile.above + tile.wanted, width, std::min(part, depth - from), ld, width,
                                    width, from > 0, p + (top - tile.above) * ld + from,
                                    b.packed(panel) + from * width, c);
      detail::StoreTile::run(c + tile.above * width, width, detail::bias_from<T>(bias, first),
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
      const simd::BFloat16 pairs[2 * simd::kLanes] = {};
      const float numbers[simd::kLanes] = {};
      float c[simd::kLanes];
      try {
        at::native::cpublas::brgemm(1, simd::kLanes, 2, 2, simd::kLanes, simd::kLanes, false, pairs, pairs,
                                    c);
        at::native::cpublas::brgemm(1, simd::kLanes, 1, 1, simd::kLanes, simd::kLanes, false, numbers,
                                    numbers, c);
        return true;
      } catch (const c10::Error&) {
        return false;
      }
    }();
    return found;
  }
};

}  // namespace offsite::ops
