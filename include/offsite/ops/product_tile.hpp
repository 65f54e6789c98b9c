#pragma once
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "offsite/ops/simd.hpp"

// What products are made of: sums of a few rows and columns, which stay in registers over the whole depth and go to where they
// are wanted from there. Factors are of cells of 32 bits, each of which holds what is multiplied at a time: a number of
// float32, or two of bfloat16.

namespace offsite::ops::detail {

/// Cells of a tile's left factor: cell k of row i lies i * row + k * step bytes from `data`.
struct LeftCells {
  const char* data;
  std::int64_t row, step;
  /// What another tile reads: brought into the first cache meanwhile, `next_step` bytes further with each cell. The tile
  /// beside this one fetches what lies `next_share` bytes further.
  const char* next = data;
  std::int64_t next_step = 0, next_share = 0;
};

/// The numbers of a bias from `first`; null if there is none.
template <class T>
[[nodiscard]] const T* bias_from(const at::Tensor& bias, std::int64_t first) {
  return bias.defined() ? bias.const_data_ptr<T>() + first : nullptr;
}

#if defined(__x86_64__)

/// The first `columns` lanes of vector `v` of a tile's row.
[[nodiscard]] inline __mmask16 lanes_of(std::int64_t columns, int v) {
  const auto left = std::clamp(columns - v * simd::kLanes, std::int64_t{0}, simd::kLanes);
  return static_cast<__mmask16>((1u << left) - 1);
}

/// y = sums + bias, rounded to nearest even for bfloat16; or, to go on along the depth, sums that begin with those in `y`.
template <class T>
struct StoreSums {
  T* y;
  std::int64_t ld;
  const T* bias;  ///< may be null
  bool goes_on = false;

  template <int rows, int vectors>
  [[gnu::always_inline, gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]] void begin(
      __m512 (&sums)[rows][vectors], std::int64_t columns) const {
#pragma GCC unroll 12
    for (int i = 0; i < rows; ++i) __builtin_prefetch(y + i * ld, 1);
    if constexpr (std::is_same_v<T, float>) {
      if (!goes_on) return;
#pragma GCC unroll 12
      for (int i = 0; i < rows; ++i)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v)
          sums[i][v] = _mm512_maskz_loadu_ps(lanes_of(columns, v), y + i * ld + v * simd::kLanes);
    }
  }
  template <int rows, int vectors>
  [[gnu::always_inline, gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]] void finish(
      __m512 (&sums)[rows][vectors], std::int64_t columns) const {
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) {
      const auto lanes = lanes_of(columns, v);
      const __m512 add = bias != nullptr ? loaded(bias + v * simd::kLanes, lanes) : _mm512_setzero_ps();
#pragma GCC unroll 12
      for (int i = 0; i < rows; ++i) {
        const __m512 sum = _mm512_add_ps(sums[i][v], add);
        if constexpr (std::is_same_v<T, float>)
          _mm512_mask_storeu_ps(y + i * ld + v * simd::kLanes, lanes, sum);
        else
          _mm256_mask_storeu_epi16(y + i * ld + v * simd::kLanes, lanes,
                                   reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(sum)));
      }
    }
  }

 private:
  [[gnu::always_inline, gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]] static __m512
  loaded(const T* numbers, __mmask16 lanes) {
    if constexpr (std::is_same_v<T, float>)
      return _mm512_maskz_loadu_ps(lanes, numbers);
    else
      return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(
          lanes, _mm512_maskz_cvtepu16_epi32(lanes, _mm256_maskz_loadu_epi16(lanes, numbers)), 16));
  }
};

/// to += sums.
struct AddSums {
  float* to;
  std::int64_t ld;

  template <int rows, int vectors>
  [[gnu::always_inline, gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]] void begin(
      __m512 (&)[rows][vectors], std::int64_t) const {
#pragma GCC unroll 12
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) __builtin_prefetch(to + i * ld + v * simd::kLanes, 1);
  }
  template <int rows, int vectors>
  [[gnu::always_inline, gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]] void finish(
      __m512 (&sums)[rows][vectors], std::int64_t columns) const {
#pragma GCC unroll 12
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) {
        const auto lanes = lanes_of(columns, v);
        auto* at = to + i * ld + v * simd::kLanes;
        _mm512_mask_storeu_ps(at, lanes, _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, at), sums[i][v]));
      }
  }
};

#else

template <class T>
struct StoreSums {
  T* y;
  std::int64_t ld;
  const T* bias;
  bool goes_on = false;
};
struct AddSums {
  float* to;
  std::int64_t ld;
};

#endif

/// Up to 12 rows and 32 columns of a product of T.
template <class T>
struct ProductTile {
  static constexpr std::int64_t kRows = 12, kVectors = 2, kColumns = kVectors * simd::kLanes;

  /// Multiplies `depth` cells of each row of `left` by those of `right`, (depth, 16 or 32) cells, and gives the first
  /// `columns` of the sums to `finish`.
  template <class Finish>
  using Function = void(const LeftCells& left, const std::uint32_t* right, std::int64_t depth,
                        std::int64_t columns, const Finish& finish);

  /// The function for `rows` in [1, kRows] and a right factor that is 16 columns wide, or 32: registers have no index.
  template <class Finish>
  [[nodiscard]] static Function<Finish>* function(std::int64_t rows, std::int64_t width) {
    static constexpr auto all = []<std::size_t... i>(std::index_sequence<i...>) {
      return std::array<Function<Finish>*, sizeof...(i)>{
          &run<static_cast<int>(i / kVectors) + 1, static_cast<int>(i % kVectors) + 1, Finish>...};
    }
    (std::make_index_sequence<kRows * kVectors>());
    return all[static_cast<std::size_t>((rows - 1) * kVectors + width / simd::kLanes - 1)];
  }

 private:
#if defined(__x86_64__)
  template <int rows, int vectors, class Finish>
  [[gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]] static void run(
      const LeftCells& left, const std::uint32_t* right, std::int64_t depth, std::int64_t columns,
      const Finish& finish) {
    __m512 sums[rows][vectors] = {};
    finish.begin(sums, columns);
    // Every third row has an address, from which the next two can be told: there are not enough registers for more, and the
    // compiler would keep the rest in those that multiply.
    constexpr int kApart = 3, kAddresses = (rows + kApart - 1) / kApart;
    const char* cell[kAddresses];
#pragma GCC unroll 4
    for (int i = 0; i < kAddresses; ++i) cell[i] = left.data + i * kApart * left.row;
    const char* next = left.next;
    const auto row = left.row, step = left.step, next_step = left.next_step;
    for (std::int64_t k = 0; k < depth; ++k) {
      _mm_prefetch(next, _MM_HINT_T0);
#pragma GCC unroll 4
      for (auto& address : cell) asm("" : "+r"(address));
      __m512i wide[vectors];
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) wide[v] = _mm512_loadu_si512(right + v * simd::kLanes);
#pragma GCC unroll 12
      for (int i = 0; i < rows; ++i) {
        int one;
        std::memcpy(&one, cell[i / kApart] + i % kApart * row, sizeof one);
        const __m512i both = _mm512_set1_epi32(one);
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v) {
          if constexpr (std::is_same_v<T, float>)
            sums[i][v] = _mm512_fmadd_ps(_mm512_castsi512_ps(both), _mm512_castsi512_ps(wide[v]), sums[i][v]);
          else
            sums[i][v] = _mm512_dpbf16_ps(sums[i][v], reinterpret_cast<__m512bh>(both),
                                          reinterpret_cast<__m512bh>(wide[v]));
        }
      }
#pragma GCC unroll 4
      for (auto& address : cell) address += step;
      next += next_step, right += vectors * simd::kLanes;
    }
    finish.finish(sums, columns);
  }
#else
  template <int, int, class Finish>
  static void run(const LeftCells&, const std::uint32_t*, std::int64_t, std::int64_t, const Finish&) {}
#endif
};

}  // namespace offsite::ops::detail
