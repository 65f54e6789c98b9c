#pragma once
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>

#include "offsite/ops/interleave.hpp"
#include "offsite/ops/padded_rows.hpp"
#include "offsite/ops/simd.hpp"

// The matrix products of attention, of floats or of cells: pairs of bfloat16 that lie one after the other along the
// dimension that is summed over.

namespace offsite::ops::detail {

/// Products in float32, for every type of tensor and every processor.
template <simd::Isa isa>
struct FloatProducts {
  // 4 x 4 vectors fill 16 of AVX-512's 32 registers; the other sets have 16, each half as wide or less.
  static constexpr int kWide = isa >= simd::Isa::kAvx512 ? 4 : 1;

  template <int kVectors>
  [[gnu::always_inline]] static void tile(const float* a, std::int64_t a_row, std::int64_t a_column,
                                          const float* b, std::int64_t ldb, float* c, std::int64_t ldc,
                                          std::int64_t k, bool add) {
    simd::Floats::Raw sum[4][kVectors];
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v)
        sum[r][v] = add ? simd::load(c + r * ldc + simd::kLanes * v).raw : simd::Floats::Raw{};
    for (std::int64_t i = 0; i < k; ++i) {
      simd::Floats::Raw row[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) row[v] = simd::load(b + i * ldb + simd::kLanes * v).raw;
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) {
        const float x = a[r * a_row + i * a_column];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sum[r][v] += x * row[v];
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) simd::store(c + r * ldc + simd::kLanes * v, simd::Floats(sum[r][v]));
  }

  /// C[m, n] (+)= A[m, k] B[k, n] in tiles that stay in registers; m a multiple of 4, n of 16. A by strides.
  [[gnu::always_inline]] static void run(const float* a, std::int64_t a_row, std::int64_t a_column,
                                         const float* b, std::int64_t ldb, float* c, std::int64_t ldc,
                                         std::int64_t m, std::int64_t n, std::int64_t k, bool add) {
    constexpr std::int64_t kColumns = kWide * simd::kLanes;
    for (std::int64_t i = 0; i < m; i += 4) {
      std::int64_t j = 0;
      for (; j + kColumns <= n; j += kColumns)
        tile<kWide>(a + i * a_row, a_row, a_column, b + j, ldb, c + i * ldc + j, ldc, k, add);
      for (; j < n; j += simd::kLanes)
        tile<1>(a + i * a_row, a_row, a_column, b + j, ldb, c + i * ldc + j, ldc, k, add);
    }
  }

  template <class T>
  [[gnu::always_inline]] static void read(const T* from, std::int64_t ld, std::int64_t rows,
                                          std::int64_t depth, float* to, std::int64_t padded_rows) {
    PaddedRows::read(from, ld, rows, depth, to, padded_rows);
  }
  /// Row i times `factors[i]`, or as it is without factors.
  template <class T>
  [[gnu::always_inline]] static void write(const float* from, std::int64_t padded, T* to, std::int64_t ld,
                                           std::int64_t rows, std::int64_t depth, const float* factors) {
    const auto whole = depth / simd::kLanes * simd::kLanes;
    for (std::int64_t i = 0; i < rows; ++i) {
      const simd::Floats factor(factors ? factors[i] : 1.0f);
      for (std::int64_t d = 0; d < whole; d += simd::kLanes)
        simd::store(to + i * ld + d, simd::load(from + i * padded + d) * factor);
      if (whole < depth)
        simd::store_some(to + i * ld + whole, simd::load(from + i * padded + whole) * factor, depth - whole);
    }
  }
};

#if defined(__x86_64__)
/// Products of pairs of bfloat16, two multiplications in the time of one, summed in float32. Functions with a
/// target of their own, because intrinsics cannot be inlined into others.
struct PairProducts {
  using Cell = std::uint32_t;
  static constexpr std::int64_t kPack = 2;

  template <int kVectors>
  [[gnu::always_inline, gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]] static void
  tile(const Cell* a, std::int64_t a_row, std::int64_t a_column, const Cell* b, std::int64_t ldb, float* c,
       std::int64_t ldc, std::int64_t k, bool add) {
    __m512 sum[4][kVectors];
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v)
        sum[r][v] = add ? _mm512_loadu_ps(c + r * ldc + simd::kLanes * v) : _mm512_setzero_ps();
    for (std::int64_t i = 0; i < k; ++i) {
      __m512i row[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) row[v] = _mm512_loadu_si512(b + i * ldb + simd::kLanes * v);
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) {
        const __m512i x = _mm512_set1_epi32(static_cast<int>(a[r * a_row + i * a_column]));
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v)
          sum[r][v] =
              _mm512_dpbf16_ps(sum[r][v], reinterpret_cast<__m512bh>(x), reinterpret_cast<__m512bh>(row[v]));
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) _mm512_storeu_ps(c + r * ldc + simd::kLanes * v, sum[r][v]);
  }

  /// As FloatProducts::run, with k in cells.
  [[gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]] static void run(
      const Cell* a, std::int64_t a_row, std::int64_t a_column, const Cell* b, std::int64_t ldb, float* c,
      std::int64_t ldc, std::int64_t m, std::int64_t n, std::int64_t k, bool add) {
    for (std::int64_t i = 0; i < m; i += 4) {
      const Cell* from = a + i * a_row;
      float* to = c + i * ldc;
      std::int64_t j = 0;
      for (; j + 4 * simd::kLanes <= n; j += 4 * simd::kLanes)
        tile<4>(from, a_row, a_column, b + j, ldb, to + j, ldc, k, add);
      if (n - j == 3 * simd::kLanes) tile<3>(from, a_row, a_column, b + j, ldb, to + j, ldc, k, add);
      if (n - j == 2 * simd::kLanes) tile<2>(from, a_row, a_column, b + j, ldb, to + j, ldc, k, add);
      if (n - j == simd::kLanes) tile<1>(from, a_row, a_column, b + j, ldb, to + j, ldc, k, add);
    }
  }

  /// Rows padded with zeros to whole vectors of cells, and `padded_rows` of them.
  [[gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]] static void read(
      const simd::BFloat16* from, std::int64_t ld, std::int64_t rows, std::int64_t depth, Cell* to,
      std::int64_t padded_rows) {
    const auto width = simd::round_up(depth, kPack * simd::kLanes) / kPack;
    if (depth < width * kPack)
      PaddedRows::clear(to, padded_rows * width);
    else
      PaddedRows::clear(to + rows * width, (padded_rows - rows) * width);
    constexpr auto kWhole = kPack * simd::kLanes;
    for (std::int64_t i = 0; i < rows; ++i) {
      std::int64_t d = 0;
      for (; d + kWhole <= depth; d += kWhole)
        _mm512_storeu_si512(to + i * width + d / kPack, _mm512_loadu_si512(from + i * ld + d));
      if (d < depth)
        std::memcpy(to + i * width + d / kPack, from + i * ld + d,
                    static_cast<std::size_t>(depth - d) * sizeof(simd::BFloat16));
    }
  }

  /// Rows 2i and 2i + 1 of `width` cells of neighbours in a row -> row i of 2 `width` cells of neighbours in a
  /// column.
  [[gnu::always_inline]] static void pair_rows(const Cell* from, std::int64_t rows, std::int64_t width,
                                               Cell* to) {
    for (std::int64_t i = 0; i < rows; i += 2)
      for (std::int64_t j = 0; j < width; j += simd::kLanes / 2) {
        SixteenHalves even, odd;
        std::memcpy(&even, from + i * width + j, sizeof even);
        std::memcpy(&odd, from + (i + 1) * width + j, sizeof odd);
        store_pairs(to + i * width + 2 * j, even, odd);
      }
  }

  [[gnu::always_inline, gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]] static void
  narrow(const float* from, float factor, SixteenHalves& to) {
    to = reinterpret_cast<SixteenHalves>(
        _mm512_cvtneps_pbh(_mm512_mul_ps(_mm512_loadu_ps(from), _mm512_set1_ps(factor))));
  }

  /// Row i times `factors[i]`, or as it is without factors.
  [[gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]] static void write(
      const float* from, std::int64_t padded, simd::BFloat16* to, std::int64_t ld, std::int64_t rows,
      std::int64_t depth, const float* factors) {
    const auto whole = depth / simd::kLanes * simd::kLanes;
    for (std::int64_t i = 0; i < rows; ++i) {
      const float factor = factors ? factors[i] : 1.0f;
      for (std::int64_t d = 0; d < whole; d += simd::kLanes) {
        SixteenHalves half;
        narrow(from + i * padded + d, factor, half);
        std::memcpy(to + i * ld + d, &half, sizeof half);
      }
      if (whole < depth) {
        SixteenHalves half;
        narrow(from + i * padded + whole, factor, half);
        std::memcpy(to + i * ld + whole, &half,
                    static_cast<std::size_t>(depth - whole) * sizeof(simd::BFloat16));
      }
    }
  }
};
#endif

}  // namespace offsite::ops::detail
