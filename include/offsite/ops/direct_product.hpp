#pragma once
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <utility>

#include "offsite/ops/share_work.hpp"
#include "offsite/ops/simd.hpp"
#include "offsite/ops/store_tile.hpp"
#include "offsite/ops/tiled_product.hpp"

namespace offsite::ops {
namespace detail {

/// Sums of up to 12 rows and 32 columns, which stay in registers, of a product whose right factor, if it is bfloat16, is
/// paired there, too.
template <class T>
struct DirectTile {
  static constexpr std::int64_t kRows = 12, kColumns = 32;

  /// c (rows, 32) = or += x (rows, depth) w (depth, columns <= 32). What lies `ahead` bytes behind `w` is brought into the
  /// second cache meanwhile.
  using Sums = void(const T* x, std::int64_t x_ld, const T* w, std::int64_t w_ld, std::int64_t depth,
                    std::int64_t columns, std::int64_t ahead, bool add, float* c);

  /// The function for `rows` in [1, kRows]: registers have no index.
  [[nodiscard]] static Sums* sums(std::int64_t rows) {
    static constexpr auto all = []<std::size_t... i>(std::index_sequence<i...>) {
      return std::array<Sums*, sizeof...(i)>{&run<static_cast<int>(i) + 1>...};
    }
    (std::make_index_sequence<kRows>());
    return all[static_cast<std::size_t>(rows - 1)];
  }

 private:
#if defined(__x86_64__)
  template <int rows>
  [[gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]] static void run(
      const T* x, std::int64_t x_ld, const T* w, std::int64_t w_ld, std::int64_t depth, std::int64_t columns,
      std::int64_t ahead, bool add, float* c) {
    __m512 left[rows], right[rows];
#pragma GCC unroll 12
    for (int i = 0; i < rows; ++i) {
      left[i] = add ? _mm512_loadu_ps(c + i * kColumns) : _mm512_setzero_ps();
      right[i] = add ? _mm512_loadu_ps(c + i * kColumns + simd::kLanes) : _mm512_setzero_ps();
    }
    const auto lanes = static_cast<__mmask32>((std::uint64_t{1} << columns) - 1);
    if constexpr (sizeof(T) == sizeof(float)) {
      for (std::int64_t k = 0; k < depth; ++k, w += w_ld) {
        const __m512 first = _mm512_maskz_loadu_ps(static_cast<__mmask16>(lanes), w),
                     second = _mm512_maskz_loadu_ps(static_cast<__mmask16>(lanes >> 16), w + simd::kLanes);
        const auto next = reinterpret_cast<std::intptr_t>(w) + ahead;
        _mm_prefetch(reinterpret_cast<const char*>(next), _MM_HINT_T1);
        _mm_prefetch(reinterpret_cast<const char*>(next + 64), _MM_HINT_T1);
#pragma GCC unroll 12
        for (int i = 0; i < rows; ++i) {
          const __m512 both = _mm512_set1_ps(x[i * x_ld + k]);
          left[i] = _mm512_fmadd_ps(both, first, left[i]);
          right[i] = _mm512_fmadd_ps(both, second, right[i]);
        }
      }
    } else {
      // Words 2j and 2j + 1 of the first vector are number j of a row of `w` and of the row after it, which a shuffle of
      // two vectors counts from 32; the second vector goes on with number 16.
      const __m512i low = _mm512_add_epi32(
          _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                             _mm512_set1_epi32(0x10001)),
          _mm512_set1_epi32(0x200000));
      const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(0x100010));
      for (std::int64_t k = 0; k < depth; k += 2, w += 2 * w_ld) {
        const bool paired = k + 1 < depth;
        const __m512i even = _mm512_maskz_loadu_epi16(lanes, w);
        const __m512i odd = paired ? _mm512_maskz_loadu_epi16(lanes, w + w_ld) : _mm512_setzero_si512();
        const auto next = reinterpret_cast<std::intptr_t>(w) + ahead;
        _mm_prefetch(reinterpret_cast<const char*>(next), _MM_HINT_T1);
        _mm_prefetch(reinterpret_cast<const char*>(next + w_ld * std::int64_t{sizeof *w}), _MM_HINT_T1);
        const auto first = reinterpret_cast<__m512bh>(_mm512_permutex2var_epi16(even, low, odd)),
                   second = reinterpret_cast<__m512bh>(_mm512_permutex2var_epi16(even, high, odd));
#pragma GCC unroll 12
        for (int i = 0; i < rows; ++i) {
          int pair = x[i * x_ld + k].x;
          if (paired) std::memcpy(&pair, x + i * x_ld + k, sizeof pair);
          const auto both = reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
          left[i] = _mm512_dpbf16_ps(left[i], both, first);
          right[i] = _mm512_dpbf16_ps(right[i], both, second);
        }
      }
    }
#pragma GCC unroll 12
    for (int i = 0; i < rows; ++i) {
      _mm512_storeu_ps(c + i * kColumns, left[i]);
      _mm512_storeu_ps(c + i * kColumns + simd::kLanes, right[i]);
    }
  }
#else
  template <int>
  static void run(const T*, std::int64_t, const T*, std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                  bool, float*) {}
#endif
};

/// Panels of 32 columns of a product, from `start` to before `stop`, whose sums `c` stay in the second cache over
/// the whole depth.
template <class T>
struct DirectPanels {
  using Tile = DirectTile<T>;
  const T *x, *w;  ///< both factors, from their beginnings
  std::int64_t x_ld, w_ld, rows, depth, columns, start, stop;
  float* c;

  // A panel of `w`, 16 KiB of this depth, stays in the first cache until all rows have met it.
  static constexpr std::int64_t kDepth = 128 * kPerCell<T>;

  void multiply() const {
    for (std::int64_t k = 0; k < depth; k += kDepth)
      for (auto panel = start; panel < stop; ++panel) add(panel, k);
  }
  void store(const at::Tensor& bias, T* y) const {
    for (auto panel = start; panel < stop; ++panel) {
      const auto first = panel * Tile::kColumns;
      StoreTile::run(sums(panel), Tile::kColumns, bias_from<T>(bias, first), y + first, columns, rows,
                     width(panel));
    }
  }

 private:
  [[nodiscard]] float* sums(std::int64_t panel) const { return c + (panel - start) * rows * Tile::kColumns; }
  [[nodiscard]] std::int64_t width(std::int64_t panel) const {
    return std::min(Tile::kColumns, columns - panel * Tile::kColumns);
  }
  /// Numbers from a panel's rows to those that are read next: beside a panel lies the next one; after the last
  /// the first follows, further down.
  [[nodiscard]] std::int64_t ahead(std::int64_t panel) const {
    return panel + 1 < stop ? Tile::kColumns : kDepth * w_ld - (stop - 1 - start) * Tile::kColumns;
  }
  /// What rows [k, k + kDepth) of a panel add to its sums, in tiles of about equal heights.
  void add(std::int64_t panel, std::int64_t k) const {
    const auto tiles = (rows + Tile::kRows - 1) / Tile::kRows, height = (rows + tiles - 1) / tiles;
    const auto* right = w + k * w_ld + panel * Tile::kColumns;
    for (std::int64_t top = 0; top < rows; top += height) {
      const auto n = std::min(height, rows - top),
                 bytes = top == 0 ? ahead(panel) * std::int64_t{sizeof *w} : 0;
      Tile::sums(n)(x + top * x_ld + k, x_ld, right, w_ld, std::min(kDepth, depth - k), width(panel), bytes,
                    k > 0, sums(panel) + top * Tile::kColumns);
    }
  }
};

}  // namespace detail

/// Products of few rows of bfloat16 or float32 with a weight that is dense along its columns: a row of the weight is read
/// as it lies in memory, a little ahead of its use, and one of bfloat16 paired with the next one in registers.
///
/// oneDNN's own product packs the weight at every call: on Zen 4 this one is 2.5 times as fast with 8 rows, 1.4 times
/// with 43, 1.1 times with 116, and no faster from 256 on. A number has the bits that `TiledProduct` would give. In float32
/// it is 2.4 times as fast with 12 rows, 1.3 to 1.6 times with 43, 1.1 to 1.5 times with 116; numbers are summed in turn.
struct DirectProduct {
  /// Whether `y = a b` can be computed here: where `TiledProduct` works, with dense rows of both, of any depth, and few
  /// rows of `a`.
  [[nodiscard]] static bool serves(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias = {}) {
    return b.stride(1) == 1 && a.size(0) < TiledProduct::fewest_rows(a, b) && TiledProduct::usable(a, b, 1) &&
           TiledProduct::addable(a, bias);
  }

  /// a b + bias: `a` (rows, depth), `b` (depth, columns), `bias` (columns) or undefined, dense.
  [[nodiscard]] static at::Tensor run(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias) {
    const auto rows = a.size(0), columns = b.size(1);
    at::Tensor y = at::empty({rows, columns}, a.options());
    const TiledProduct::Observed observed(a, b);

    constexpr auto kWidth = detail::DirectTile<float>::kColumns;
    const auto panels = (columns + kWidth - 1) / kWidth, units = (panels + kUnit - 1) / kUnit;
    const auto most = std::max(kSums / (rows * kWidth * kUnit), std::int64_t{1});
    share_work(units, most, [&](std::int64_t begin, std::int64_t end) {
      const auto start = begin * kUnit, stop = std::min(end * kUnit, panels);
      float* c = simd::Scratch::floats((stop - start) * rows * kWidth);
      with_type(a, [&]<class T>(T*) {
        const detail::DirectPanels<T> some{.x = a.const_data_ptr<T>(),
                                           .w = b.const_data_ptr<T>(),
                                           .x_ld = a.stride(0),
                                           .w_ld = b.stride(0),
                                           .rows = rows,
                                           .depth = a.size(1),
                                           .columns = columns,
                                           .start = start,
                                           .stop = stop,
                                           .c = c};
        some.multiply();
        some.store(bias, y.mutable_data_ptr<T>());
      });
    });
    return y;
  }

 private:
  // Threads take at least some panels side by side, which memory gives sooner than one.
  static constexpr std::int64_t kUnit = 6, kSums = 1 << 16;
};

}  // namespace offsite::ops
