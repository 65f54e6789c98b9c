#pragma once
#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#include "offsite/ops/attention_products.hpp"
#include "offsite/ops/attention_task.hpp"
#include "offsite/ops/dropout.hpp"
#include "offsite/ops/interleave.hpp"
#include "offsite/ops/padded_rows.hpp"
#include "offsite/ops/simd.hpp"

namespace offsite::ops::detail {

/// Attention in bfloat16 for processors that multiply pairs of it: as AttentionKernel, but with the scores of 32 queries as
/// lanes, a row a key. Maxima, sums and <P, dP> are then sums of whole vectors, and a register of probabilities that are
/// rounded once becomes pairs in both directions: along the keys with the row of the next key, along the queries as it is.
template <bool kBackward>
struct PairAttentionKernel {
  using T = simd::BFloat16;
  using Cell = PairProducts::Cell;
  static constexpr int kVectors = kQueryBlock / simd::kLanes;
  static constexpr int kKeys =
      8;  ///< of a tile: with two vectors of queries 16 sums that do not wait for each other
  static_assert(kVectors == 2);
  /// Queries whose products with all keys are summed at once: sums are read and written once for so many.
  static constexpr std::int64_t kSummed = 128;

  static constexpr float kLog2OfE = 1.44269504f, kHidden = -1e30f;
  static constexpr __mmask16 kAll = 0xffff;  // GCC 12 warns of what the maskless ones leave undefined

  /// Working memory. Rows of `width` cells are pairs along the depth; those of `d` cells pairs of two rows; `.._t` has a
  /// column a query. `p`, `dp` and `factors` have 32 numbers a key; pairs along the keys take the place of P.
  struct Buffers {
    std::int64_t width = 0, d = 0, length = 0;
    float *p = nullptr, *dp = nullptr, *factors = nullptr, *o = nullptr, *dk = nullptr, *dv = nullptr;
    Cell *k = nullptr, *v = nullptr, *k_pairs = nullptr, *v_pairs = nullptr;
    Cell *q = nullptr, *q_t = nullptr, *q_pairs = nullptr;
    Cell *dout = nullptr, *dout_t = nullptr, *dout_pairs = nullptr;
    Cell *p_halves = nullptr, *ds_halves = nullptr;  ///< a row a key, of pairs along kSummed queries
  };

  /// What 32 queries need, a number each; keys count from `begin`.
  struct Block {
    std::int64_t begin = 0, rows = 0, vectors = 0;
    float factor = 0, slope = 0;  ///< of scores, times the logarithm of e; of biases, before it
    bool drops = false;
    std::int64_t all_from[kVectors], all_to[kVectors];  ///< the keys that every query of a vector sees
    std::int64_t keys[kVectors];                        ///< up to the last one seen, in tiles
    alignas(64) std::int32_t from[kQueryBlock], to[kQueryBlock];  ///< the keys from .. to - 1 are seen
    alignas(64) float own[kQueryBlock];                           ///< a query's place among the keys
    alignas(64) float base[kQueryBlock];  ///< the largest score, or lse times the logarithm of e
    alignas(64) float sums[kQueryBlock];  ///< of exponentials, or of P dP
  };

  [[gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]] static void run(
      const AttentionTask<T>& t, const AttentionTask<T>& next) {
    Buffers b;
    b.width = simd::round_up(t.depth, 2 * simd::kLanes) / 2;
    b.d = 2 * b.width;
    b.length = simd::round_up(t.prefix_keys + t.keys, simd::kLanes);
    divide(b, t.scratch);
    const auto unseen = t.queries > 0 ? t.first_key(0) / kKeys * kKeys : 0;  // keys before every window
    read_keys(t, t.prefix_k, t.k, t.ldk, unseen, b, b.k);
    read_keys(t, t.prefix_v, t.v, t.ldv, unseen, b, b.v);
    const auto* rows = kBackward ? b.k : b.v;
    PairProducts::pair_rows(rows + unseen * b.width, b.length - unseen, b.width,
                            (kBackward ? b.k_pairs : b.v_pairs) + unseen * b.width);
    std::int64_t written = 0;  // rows of dk and dv that hold sums already
    for (std::int64_t head = 0; head < t.heads; ++head)
      for (std::int64_t first = 0; first < t.queries; first += kSummed) {
        const auto count = std::min(kSummed, t.queries - first);
        for (std::int64_t part = 0; part < count; part += kQueryBlock)
          run_queries(t, next, b, head, first, part, std::min(kQueryBlock, count - part));
        if constexpr (kBackward)
          sum_gradients(t, b, first, count, written, head + 1 == t.heads && first + count == t.queries);
      }
    if (kBackward && t.queries == 0) {
      clear_gradients(b, 0, t.keys);
      write_gradients(t, b, 0, t.keys);
    }
  }

 private:
  [[gnu::always_inline]] static void divide(Buffers& b, float* at) {
    const auto take = [&at](std::int64_t count) __attribute__((always_inline)) {
      return std::exchange(at, at + count);
    };
    const auto cells = [&take](std::int64_t count) __attribute__((always_inline)) {
      return reinterpret_cast<Cell*>(take(count));
    };
    b.p = take(kQueryBlock * b.length);
    b.factors = take(kQueryBlock * b.length);
    b.o = take(kQueryBlock * b.d);
    b.k = cells(b.length * b.width);
    b.v = cells(b.length * b.width);
    b.q = cells(kQueryBlock * b.width);
    b.q_t = cells(kQueryBlock * b.width);
    if constexpr (kBackward) {
      b.dp = take(kQueryBlock * b.length);
      b.dk = take(b.length * b.d);
      b.dv = take(b.length * b.d);
      b.k_pairs = cells(b.length * b.width);
      b.q_pairs = cells(kSummed * b.width);
      b.dout = cells(kQueryBlock * b.width);
      b.dout_t = cells(kQueryBlock * b.width);
      b.dout_pairs = cells(kSummed * b.width);
      b.p_halves = cells(kSummed / 2 * b.length);
      b.ds_halves = cells(kSummed / 2 * b.length);
    } else {
      b.v_pairs = cells(b.length * b.width);
    }
  }

  [[gnu::always_inline]] static void read_keys(const AttentionTask<T>& t, const T* prefix, const T* own,
                                               std::int64_t ld, std::int64_t unseen, const Buffers& b,
                                               Cell* to) {
    const auto shared = std::max<std::int64_t>(t.prefix_keys - unseen, 0),
               first = std::max<std::int64_t>(unseen - t.prefix_keys, 0);
    if (shared > 0)
      PairProducts::read(prefix + unseen * ld, ld, shared, t.depth, to + unseen * b.width, shared);
    PairProducts::read(own + first * ld, ld, t.keys - first, t.depth, to + (unseen + shared) * b.width,
                       b.length - unseen - shared);
  }

  [[gnu::always_inline]] static void clear_gradients(const Buffers& b, std::int64_t from, std::int64_t to) {
    if (from >= to) return;
    PaddedRows::clear(b.dk + from * b.d, (to - from) * b.d);
    PaddedRows::clear(b.dv + from * b.d, (to - from) * b.d);
  }

  /// `rows` rows of `width` cells, and zeros -> columns of 32.
  [[gnu::always_inline]] static void read_queries(const T* from, std::int64_t ld, std::int64_t rows,
                                                  std::int64_t depth, std::int64_t width, Cell* to,
                                                  Cell* columns) {
    const auto m = simd::round_up(rows, simd::kLanes);
    PairProducts::read(from, ld, rows, depth, to, m);
    for (std::int64_t i = 0; i < m; i += simd::kLanes)
      PaddedRows::transpose<simd::Isa::kAvx512>(to + i * width, columns + i, width, kQueryBlock);
  }

  [[gnu::always_inline]] static void begin_block(const AttentionTask<T>& t, std::int64_t head,
                                                 std::int64_t first, std::int64_t rows, Block& block) {
    block.begin = t.first_key(first) / kKeys * kKeys;  // positions ascend
    block.rows = rows;
    block.vectors = (rows + simd::kLanes - 1) / simd::kLanes;
    block.factor = t.scale * kLog2OfE;
    block.slope = t.slopes ? t.slopes[head] / t.scale : 0;
    block.drops = t.masks != nullptr;
    for (std::int64_t r = 0; r < block.vectors * simd::kLanes; ++r) {
      const auto i = first + std::min(r, rows - 1);  // past the last one: zeros that see its keys
      block.from[r] = static_cast<std::int32_t>(std::max<std::int64_t>(t.first_key(i) - block.begin, 0));
      block.to[r] = static_cast<std::int32_t>(t.position[i] + 1 - block.begin);
      block.own[r] = static_cast<float>(block.to[r] - 1);
      block.base[r] = !kBackward ? kHidden : r < rows ? t.lse[i * t.ldl + head] * kLog2OfE : -kHidden;
      block.sums[r] = 0;
    }
    for (std::int64_t v = 0; v < block.vectors; ++v) {
      const auto last = (v + 1) * simd::kLanes - 1;
      block.all_from[v] = block.from[last];
      block.all_to[v] = block.to[v * simd::kLanes];
      block.keys[v] = simd::round_up(block.to[last], kKeys);
    }
  }

  /// What dropout multiplies a block's probabilities by.
  [[gnu::always_inline]] static void draw(const DropoutRow* masks, const Block& block, float* to) {
    for (std::int64_t v = 0; v < block.vectors; ++v)
      for (std::int64_t key = 0; key < block.keys[v]; key += simd::kLanes) {
        alignas(64) float rows[simd::kLanes * simd::kLanes];
        for (std::int64_t r = 0; r < simd::kLanes; ++r)
          simd::store(rows + r * simd::kLanes,
                      masks[std::min(v * simd::kLanes + r, block.rows - 1)].factors(block.begin + key));
        transpose_block(rows, simd::kLanes, to + key * kQueryBlock + v * simd::kLanes, kQueryBlock);
      }
  }

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

  /// 2^x to 3e-6, 0 for very small x and NaN for NaN: a thousandth of what rounding the result to bfloat16 costs.
  [[gnu::always_inline, gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]] static __m512
  exp2(__m512 x) {
    const __m512 n = _mm512_maskz_roundscale_ps(kAll, x, 0), r = _mm512_sub_ps(x, n);
    __m512 p = _mm512_fmadd_ps(r, _mm512_set1_ps(9.582838370e-3f), _mm512_set1_ps(5.590646285e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.402409908e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.931241893e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_maskz_scalef_ps(kAll, p, n);
  }

  /// Scores of eight keys from `key` on, of the queries in `kCount` vectors from column `first` on, and what becomes of
  /// them: forward the largest ones, backward probabilities and their gradients.
  template <int kCount>
  [[gnu::always_inline, gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]] static void
  score(const Buffers& b, Block& block, std::int64_t key, std::int64_t first) {
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
          sum[r][v] = _mm512_mask_mov_ps(_mm512_set1_ps(kHidden), seen, sum[r][v]);
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

  [[gnu::always_inline,
    gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]] static SixteenHalves
  narrow(__m512 x) {
    return reinterpret_cast<SixteenHalves>(_mm512_cvtneps_pbh(x));
  }

  /// Scores of the keys key .. end - 1 -> exponentials, whose sums are taken: two rows become one of pairs in place of the
  /// first.
  [[gnu::always_inline, gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]] static void
  round_probabilities(const Buffers& b, Block& block, std::int64_t column) {
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

  /// Two keys' rows of P and dP -> pairs of dS = P (dP - <P, dP>) scale and of P along the queries, and of dS along the keys
  /// in place of the first row of P. For a mask M: dP is M dP already, and P becomes M P.
  template <int kCount>
  [[gnu::always_inline, gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]] static void
  round_gradients(const Buffers& b, const Block& block, std::int64_t key, std::int64_t first,
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
        const auto place = ((block.begin + key + r) * kSummed + part + column) / 2;
        std::memcpy(b.p_halves + place, &p, sizeof p);
        std::memcpy(b.ds_halves + place, &ds[r][v], sizeof p);
      }
#pragma GCC unroll 2
    for (int v = 0; v < kCount; ++v)
      store_pairs(reinterpret_cast<Cell*>(b.p + key / 2 * kQueryBlock + first + v * simd::kLanes), ds[0][v],
                  ds[1][v]);
  }

  /// Queries first + part .. first + part + rows - 1 of one head, over the keys that one of them sees. Strips of four leave
  /// out the keys after the last of the four.
  [[gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]] static void run_queries(
      const AttentionTask<T>& t, const AttentionTask<T>& next, const Buffers& buffers, std::int64_t head,
      std::int64_t summed, std::int64_t part, std::int64_t rows) {
    const Buffers b = buffers;
    const auto first = summed + part;
    Block block;
    begin_block(t, head, first, rows, block);
    read_queries(t.q + head * t.q_head + first * t.ldq, t.ldq, rows, t.depth, b.width, b.q, b.q_t);
    if constexpr (kBackward)
      read_queries(t.dout + head * t.o_head + first * t.ldo, t.ldo, rows, t.depth, b.width, b.dout, b.dout_t);
    if (block.drops) draw(t.masks + head * t.queries + first, block, b.factors);

    std::int64_t key = 0;
    if (block.vectors == kVectors)
      for (; key < block.keys[0]; key += kKeys) score<kVectors>(b, block, key, 0);
    const auto column = (block.vectors - 1) * simd::kLanes;
    for (; key < block.keys[block.vectors - 1]; key += kKeys) score<1>(b, block, key, column);
    if constexpr (!kBackward) {
      for (std::int64_t v = 0; v < block.vectors; ++v) round_probabilities(b, block, v * simd::kLanes);
    } else {
      for (key = t.first_key(summed) / kKeys * kKeys; key < block.begin;
           ++key)  // before the window of all queries
        for (Cell* halves : {b.p_halves, b.ds_halves})
          PaddedRows::clear(halves + (key * kSummed + part) / 2, kQueryBlock / 2);
      key = 0;
      if (block.vectors == kVectors)
        for (; key < block.keys[0]; key += 2) round_gradients<kVectors>(b, block, key, 0, part, t.scale);
      for (; key < block.keys[block.vectors - 1]; key += 2)
        round_gradients<1>(b, block, key, column, part, t.scale);
    }

    const auto m = simd::round_up(rows, 4);
    const auto seen = [&](std::int64_t row) __attribute__((always_inline)) {  // by the strip from `row` on
      return block.to[std::min(row + 4, rows) - 1];
    };
    const auto* p = reinterpret_cast<const Cell*>(b.p);
    const Cell* rows_of_pairs = (kBackward ? b.k_pairs : b.v_pairs) + block.begin * b.width;
    for (std::int64_t i = 0; i < m; i += 4) {
      next.template prefetch<kBackward>(head, first + i, first + i + 4);
      PairProducts::run(p + i, 1, kQueryBlock, rows_of_pairs, b.d, b.o + i * b.d, b.d, 4, b.d,
                        simd::round_up(seen(i), 4) / 2, false);
    }
    if constexpr (!kBackward) {
      float factors[kQueryBlock];
      for (std::int64_t i = 0; i < rows; ++i) {
        factors[i] = 1.0f / block.sums[i];
        t.lse[(first + i) * t.ldl + head] = block.base[i] * t.scale + std::log(block.sums[i]);
      }
      PairProducts::write(b.o, b.d, t.out + head * t.o_head + first * t.ldo, t.ldo, rows, t.depth, factors);
    } else {
      PairProducts::write(b.o, b.d, t.dq + head * t.dq_head + first * t.lddq, t.lddq, rows, t.depth, nullptr);
      PairProducts::pair_rows(b.q, m, b.width, b.q_pairs + part * b.width);
      PairProducts::pair_rows(b.dout, m, b.width, b.dout_pairs + part * b.width);
    }
  }

  /// Adds what queries first .. first + rows - 1 contribute to the gradients of the keys and values they see.
  [[gnu::always_inline]] static void sum_gradients(const AttentionTask<T>& t, const Buffers& b,
                                                   std::int64_t first, std::int64_t rows,
                                                   std::int64_t& written, bool last) {
    const auto begin = t.first_key(first) / kKeys * kKeys, m = simd::round_up(rows, 4);
    const auto seen = [&](std::int64_t row) __attribute__((always_inline)) {  // by the strip from `row` on
      return t.position[first + std::min(row + 4, rows) - 1] + 1;
    };
    const auto end = begin + simd::round_up(seen(m - 4) - begin, 4);
    clear_gradients(b, written, begin);
    for (const bool values : {true, false}) {
      std::int64_t i = 0;  // the first strip that sees one of four keys
      for (auto key = begin; key < end; key += 4) {
        while (seen(i) <= key) i += 4;
        const bool add = key < written;
        float* sums = last && !add ? b.o : (values ? b.dv : b.dk) + key * b.d;
        PairProducts::run((values ? b.p_halves : b.ds_halves) + (key * kSummed + i) / 2, kSummed / 2, 1,
                          (values ? b.dout_pairs : b.q_pairs) + i / 2 * b.d, b.d, sums, b.d, 4, b.d,
                          (m - i) / 2, add);
        if (last)  // while they are near the processor
          PairProducts::write(sums, b.d, values ? t.dv + key * t.lddv : t.dk + key * t.lddk,
                              values ? t.lddv : t.lddk, std::min<std::int64_t>(4, t.keys - key), t.depth,
                              nullptr);
      }
    }
    written = std::max(written, end);
    if (last) {
      clear_gradients(b, end, t.keys);  // keys that no query saw
      write_gradients(t, b, end, t.keys);
      write_gradients(t, b, 0, begin);
    }
  }

  [[gnu::always_inline]] static void write_gradients(const AttentionTask<T>& t, const Buffers& b,
                                                     std::int64_t from, std::int64_t to) {
    if (from >= to) return;
    PairProducts::write(b.dk + from * b.d, b.d, t.dk + from * t.lddk, t.lddk, to - from, t.depth, nullptr);
    PairProducts::write(b.dv + from * b.d, b.d, t.dv + from * t.lddv, t.lddv, to - from, t.depth, nullptr);
  }
};

}  // namespace offsite::ops::detail
#endif
