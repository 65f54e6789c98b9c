#pragma once
#if defined(__x86_64__)
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "offsite/ops/attention_pair_block.hpp"
#include "offsite/ops/attention_pair_buffers.hpp"
#include "offsite/ops/attention_pair_gradients.hpp"
#include "offsite/ops/attention_pair_scores.hpp"
#include "offsite/ops/attention_products.hpp"
#include "offsite/ops/attention_task.hpp"
#include "offsite/ops/padded_rows.hpp"
#include "offsite/ops/simd.hpp"

namespace offsite::ops::detail {

/// Attention in bfloat16 for processors that multiply pairs of it: as AttentionKernel, but with 32 queries as lanes
/// while scores become probabilities.
template <bool kBackward>
struct PairAttentionKernel {
  using T = simd::BFloat16;
  using Cell = PairProducts::Cell;

  [[gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]] static void run(
      const AttentionTask<T>& t, const AttentionTask<T>& next) {
    const auto b = PairBuffers::of<kBackward>(t);
    const auto unseen = t.queries > 0 ? PairBlock::first_tile(t, 0) : 0;  // keys before every window
    read_keys(t, t.prefix_k, t.k, t.ldk, unseen, b, b.k);
    read_keys(t, t.prefix_v, t.v, t.ldv, unseen, b, b.v);
    const auto* rows = kBackward ? b.k : b.v;
    PairProducts::pair_rows(rows + unseen * b.width, b.length - unseen, b.width,
                            (kBackward ? b.k_pairs : b.v_pairs) + unseen * b.width);
    [[maybe_unused]] PairKeyGradients gradients;
    for (std::int64_t head = 0; head < t.heads; ++head)
      for (std::int64_t first = 0; first < t.queries; first += PairBuffers::kSummed) {
        const auto count = std::min(PairBuffers::kSummed, t.queries - first);
        for (std::int64_t part = 0; part < count; part += kQueryBlock)
          run_queries(t, next, b, head, first, part, std::min(kQueryBlock, count - part));
        if constexpr (kBackward)
          gradients.add(t, b, first, count, head + 1 == t.heads && first + count == t.queries);
      }
    if (kBackward && t.queries == 0) PairKeyGradients::write_zeros(t, b);
  }

 private:
  [[gnu::always_inline]] static void read_keys(const AttentionTask<T>& t, const T* prefix, const T* own,
                                               std::int64_t ld, std::int64_t unseen, const PairBuffers& b,
                                               Cell* to) {
    const auto shared = std::max<std::int64_t>(t.prefix_keys - unseen, 0),
               first = std::max<std::int64_t>(unseen - t.prefix_keys, 0);
    if (shared > 0)
      PairProducts::read(prefix + unseen * ld, ld, shared, t.depth, to + unseen * b.width, shared);
    PairProducts::read(own + first * ld, ld, t.keys - first, t.depth, to + (unseen + shared) * b.width,
                       b.length - unseen - shared);
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

  /// Queries summed + part .. summed + part + rows - 1 of one head, over the keys that one of them sees. Strips of
  /// four leave out the keys after the last of the four.
  [[gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]] static void run_queries(
      const AttentionTask<T>& t, const AttentionTask<T>& next, const PairBuffers& buffers, std::int64_t head,
      std::int64_t summed, std::int64_t part, std::int64_t rows) {
    const PairBuffers b = buffers;
    const auto first = summed + part;
    auto block = PairBlock::of<kBackward>(t, head, first, rows);
    read_queries(t.q + head * t.q_head + first * t.ldq, t.ldq, rows, t.depth, b.width, b.q, b.q_t);
    if constexpr (kBackward)
      read_queries(t.dout + head * t.o_head + first * t.ldo, t.ldo, rows, t.depth, b.width, b.dout, b.dout_t);
    if (block.drops) block.draw(t.masks + head * t.queries + first, b.factors);

    PairScores<kBackward>::compute(b, block);
    if constexpr (!kBackward) {
      PairScores<kBackward>::round_probabilities(b, block);
    } else {
      for (auto key = PairBlock::first_tile(t, summed); key < block.begin;
           ++key)  // before these queries' windows
        for (Cell* halves : {b.p_halves, b.ds_halves})
          PaddedRows::clear(halves + (key * PairBuffers::kSummed + part) / 2, kQueryBlock / 2);
      PairScores<kBackward>::round_gradients(b, block, part, t.scale);
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
};

}  // namespace offsite::ops::detail
#endif
