#pragma once
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "offsite/ops/attention_pair_block.hpp"
#include "offsite/ops/attention_pair_buffers.hpp"
#include "offsite/ops/attention_products.hpp"
#include "offsite/ops/attention_task.hpp"
#include "offsite/ops/interleave.hpp"
#include "offsite/ops/simd.hpp"

namespace offsite::ops::detail {

/// Scores of 32 queries as lanes, a row a key, and what softmax makes of them. Maxima, sums and <P, dP> are then
/// sums of whole vectors, and a register of probabilities that are rounded once becomes pairs in both directions:
/// along the keys with the row of the next key, along the queries as it is.
template <bool kBackward>
class PairScores {
  using Cell = PairProducts::Cell;
  static constexpr int kVectors = PairBlock::kVectors, kKeys = PairBlock::kKeys;
  static constexpr __mmask16 kAll = 0xffff;  // GCC 12 warns of what the maskless ones leave undefined

 public:
  /// Products of all that one of the queries sees: forward the largest scores too, backward probabilities and dP.
  [[gnu::always_inline, gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]] static void
  compute(const PairBuffers& b, PairBlock& block) {
    std::int64_t key = 0;
    if (block.vectors == kVectors)
      for (; key < block.keys[0]; key += kKeys) score<kVectors>(b, block, key, 0);
    const auto column = (block.vectors - 1) * simd::kLanes;
    for (; key < block.keys[block.vectors - 1]; key += kKeys) score<1>(b, block, key, column);
  }

  /// Scores -> pairs of exponentials along the keys, and their sums.
  [[gnu::always_inline, gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]] static void
  round_probabilities(const PairBuffers& b, PairBlock& block) {
    for (std::int64_t v = 0; v < block.vectors; ++v) round_vector(b, block, v * simd::kLanes);
  }

  /// P and dP -> pairs of P and dS along the queries, from `part` of those summed at once on, and of dS along the keys.
  [[gnu::always_inline, gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]] static void
  round_gradients(const PairBuffers& b, const PairBlock& block, std::int64_t part, float scale) {
    std::int64_t key = 0;
    if (block.vectors == kVectors)
      for (; key < block.keys[0]; key += 2) round_keys<kVectors>(b, block, key, 0, part, scale);
    const auto column = (block.vectors - 1) * simd::kLanes;
    for (; key < block.keys[block.vectors - 1]; key += 2) round_keys<1>(b, block, key, column, part, scale);
  }

 private:
  /// Eight rows of cells times `kCount` vectors of columns.
  template <int kCount>
  [[gnu::always_inline, gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]] static void
  multiply(const Cell* rows, std::int64_t width, const Cell* columns, __m512 (&sum)[kKeys][kCount]) {
#pragma GCC unroll 8
    for (int r = 0; r < kKeys; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < kCount; ++v) sum[r][v] = _mm512_setzero_ps();
    for (std::int64_t i = 0; i < width; ++i) {
      __m512i column[kCount];
#pragma GCC unroll 2
      for (int v = 0; v < kCount; ++v)
        column[v] = _mm512_loadu_si512(columns + i * kQueryBlock + simd::kLanes * v);
#pragma GCC unroll 8
      for (int r = 0; r < kKeys; ++r) {
        const __m512i x = _mm512_set1_epi32(static_cast<int>(rows[r * width + i]));
#pragma GCC unroll 2
        for (int v = 0; v < kCount; ++v)
          sum[r][v] = _mm512_dpbf16_ps(sum[r][v], reinterpret_cast<__m512bh>(x),
                                       reinterpret_cast<__m512bh>(column[v]));
      }
    }
  }

  /// Scores of eight keys from `key` on, of the queries in `kCount` vectors from column `first` on, and what becomes of
  /// them: forward the largest ones, backward probabilities and their gradients.
  template <int kCount>
  [[gnu::always_inline, gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]] static void
  score(const PairBuffers& b, PairBlock& block, std::int64_t key, std::int64_t first) {
    __m512 sum[kKeys][kCount];
    const auto row = block.begin + key;
    float *p = b.p + key * kQueryBlock + first, *dp = b.dp + key * kQueryBlock + first;
    multiply<kCount>(b.k + row * b.width, b.width, b.q_t + first, sum);
    if (block.slope != 0)
#pragma GCC unroll 8
      for (int r = 0; r < kKeys; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < kCount; ++v) {
          const __m512 distance = _mm512_sub_ps(_mm512_set1_ps(static_cast<float>(key + r)),
                                                _mm512_load_ps(block.own + first + v * simd::kLanes));
          sum[r][v] = _mm512_fmadd_ps(distance, _mm512_set1_ps(block.slope), sum[r][v]);
        }
#pragma GCC unroll 2
    for (int v = 0; v < kCount; ++v) {
      const auto column = first + v * simd::kLanes, vector = column / simd::kLanes;
      if (key < block.all_from[vector] || key + kKeys > block.all_to[vector])
#pragma GCC unroll 8
        for (int r = 0; r < kKeys; ++r) {
          const __m512i j = _mm512_set1_epi32(static_cast<int>(key + r));
          const __mmask16 seen =
              _mm512_mask_cmpge_epi32_mask(_mm512_cmplt_epi32_mask(j, _mm512_load_si512(block.to + column)),
                                           j, _mm512_load_si512(block.from + column));
          sum[r][v] = _mm512_mask_mov_ps(_mm512_set1_ps(PairBlock::kHidden), seen, sum[r][v]);
        }
      __m512 base = _mm512_load_ps(block.base + column);
#pragma GCC unroll 8
      for (int r = 0; r < kKeys; ++r) {
        if constexpr (kBackward)
          sum[r][v] = exp2(_mm512_fmsub_ps(sum[r][v], _mm512_set1_ps(block.factor), base));
        else
          base = _mm512_maskz_max_ps(kAll, base, sum[r][v]);  // a NaN stays among the scores
        _mm512_storeu_ps(p + r * kQueryBlock + v * simd::kLanes, sum[r][v]);
      }
      if constexpr (!kBackward) _mm512_store_ps(block.base + column, base);
    }
    if constexpr (kBackward) {
      multiply<kCount>(b.v + row * b.width, b.width, b.dout_t + first, sum);
#pragma GCC unroll 2
      for (int v = 0; v < kCount; ++v) {
        float* sums = block.sums + first + v * simd::kLanes;
        __m512 total = _mm512_load_ps(sums);
#pragma GCC unroll 8
        for (int r = 0; r < kKeys; ++r) {
          const auto at = r * kQueryBlock + v * simd::kLanes;
          if (block.drops) sum[r][v] = _mm512_mul_ps(sum[r][v], _mm512_loadu_ps(b.factors + (p - b.p) + at));
          total = _mm512_fmadd_ps(sum[r][v], _mm512_loadu_ps(p + at), total);
          _mm512_storeu_ps(dp + at, sum[r][v]);
        }
        _mm512_store_ps(sums, total);
      }
    }
  }

  [[gnu::always_inline, gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]] static __m512
  exp2(__m512 x) {
    return simd::exp2_rough<simd::Isa::kAvx512Bf16>(simd::Floats(x)).raw;
  }
  [[gnu::always_inline,
    gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]] static SixteenHalves
  narrow(__m512 x) {
    return reinterpret_cast<SixteenHalves>(_mm512_cvtneps_pbh(x));
  }

  /// Scores of one vector of queries: two rows become one of pairs in place of the first.
  [[gnu::always_inline, gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]] static void
  round_vector(const PairBuffers& b, PairBlock& block, std::int64_t column) {
    const __m512 factor = _mm512_set1_ps(block.factor),
                 base = _mm512_mul_ps(_mm512_load_ps(block.base + column), factor);
    __m512 even_sum = _mm512_setzero_ps(), odd_sum = _mm512_setzero_ps();
    for (std::int64_t key = 0; key < block.keys[column / simd::kLanes]; key += 2) {
      float* p = b.p + key * kQueryBlock + column;
      __m512 even = exp2(_mm512_fmsub_ps(_mm512_loadu_ps(p), factor, base)),
             odd = exp2(_mm512_fmsub_ps(_mm512_loadu_ps(p + kQueryBlock), factor, base));
      even_sum = _mm512_add_ps(even_sum, even);
      odd_sum = _mm512_add_ps(odd_sum, odd);
      if (block.drops) {
        even = _mm512_mul_ps(even, _mm512_loadu_ps(b.factors + (p - b.p)));
        odd = _mm512_mul_ps(odd, _mm512_loadu_ps(b.factors + (p - b.p) + kQueryBlock));
      }
      store_pairs(reinterpret_cast<Cell*>(b.p + key / 2 * kQueryBlock + column), narrow(even), narrow(odd));
    }
    _mm512_store_ps(block.sums + column, _mm512_add_ps(even_sum, odd_sum));
  }

  /// Two keys' rows of P and dP -> pairs of dS = P (dP - <P, dP>) scale and of P along the queries, and of dS
  /// along the keys in place of the first row of P. For a mask M: dP is M dP already, and P becomes M P.
  template <int kCount>
  [[gnu::always_inline, gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]] static void
  round_keys(const PairBuffers& b, const PairBlock& block, std::int64_t key, std::int64_t first,
             std::int64_t part, float scale) {
    SixteenHalves ds[2][kCount];
#pragma GCC unroll 2
    for (int r = 0; r < 2; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < kCount; ++v) {
        const auto column = first + v * simd::kLanes, at = (key + r) * kQueryBlock + column;
        __m512 x = _mm512_loadu_ps(b.p + at);
        const __m512 difference =
            _mm512_sub_ps(_mm512_loadu_ps(b.dp + at), _mm512_load_ps(block.sums + column));
        ds[r][v] = narrow(_mm512_mul_ps(_mm512_mul_ps(x, difference), _mm512_set1_ps(scale)));
        if (block.drops) x = _mm512_mul_ps(x, _mm512_loadu_ps(b.factors + at));
        const SixteenHalves p = narrow(x);
        const auto place = ((block.begin + key + r) * PairBuffers::kSummed + part + column) / 2;
        std::memcpy(b.p_halves + place, &p, sizeof p);
        std::memcpy(b.ds_halves + place, &ds[r][v], sizeof p);
      }
#pragma GCC unroll 2
    for (int v = 0; v < kCount; ++v)
      store_pairs(reinterpret_cast<Cell*>(b.p + key / 2 * kQueryBlock + first + v * simd::kLanes), ds[0][v],
                  ds[1][v]);
  }
};

}  // namespace offsite::ops::detail
#endif
