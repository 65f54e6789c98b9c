#pragma once
#if defined(__x86_64__)
#include <algorithm>
#include <cstdint>

#include "offsite/ops/attention_task.hpp"
#include "offsite/ops/dropout.hpp"
#include "offsite/ops/interleave.hpp"
#include "offsite/ops/simd.hpp"

namespace offsite::ops::detail {

/// What 32 queries of one head need, a number each, while they are attention's lanes; keys count from `begin`.
struct PairBlock {
  static constexpr int kVectors = kQueryBlock / simd::kLanes;
  /// Of a tile of scores: with two vectors of queries 16 sums that do not wait for each other.
  static constexpr int kKeys = 8;
  static_assert(kVectors == 2);
  static constexpr float kLog2OfE = 1.44269504f, kHidden = -1e30f;

  std::int64_t begin = 0, rows = 0, vectors = 0;
  float factor = 0, slope = 0;  ///< of scores, times the logarithm of e; of biases, before it
  bool drops = false;
  std::int64_t all_from[kVectors], all_to[kVectors];  ///< the keys that every query of a vector sees
  std::int64_t keys[kVectors];                        ///< up to the last one seen, in tiles
  alignas(64) std::int32_t from[kQueryBlock], to[kQueryBlock];  ///< the keys from .. to - 1 are seen
  alignas(64) float own[kQueryBlock];                           ///< a query's place among the keys
  alignas(64) float base[kQueryBlock];  ///< the largest score, or lse times the logarithm of e
  alignas(64) float sums[kQueryBlock];  ///< of exponentials, or of P dP

  /// Where the tile begins that has the first key that query i sees.
  [[nodiscard, gnu::always_inline]] static std::int64_t first_tile(const AttentionTask<simd::BFloat16>& t,
                                                                   std::int64_t i) {
    return t.first_key(i) / kKeys * kKeys;
  }
  /// Queries first .. first + rows - 1 of a head.
  template <bool kBackward>
  [[gnu::always_inline]] static PairBlock of(const AttentionTask<simd::BFloat16>& t, std::int64_t head,
                                             std::int64_t first, std::int64_t rows) {
    PairBlock block;
    block.begin = first_tile(t, first);  // positions ascend
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
    return block;
  }

  /// What dropout multiplies the probabilities by, a row a key.
  [[gnu::always_inline]] void draw(const DropoutRow* masks, float* by) const {
    for (std::int64_t v = 0; v < vectors; ++v)
      for (std::int64_t key = 0; key < keys[v]; key += simd::kLanes) {
        alignas(64) float drawn[simd::kLanes * simd::kLanes];
        for (std::int64_t r = 0; r < simd::kLanes; ++r)
          simd::store(drawn + r * simd::kLanes,
                      masks[std::min(v * simd::kLanes + r, rows - 1)].factors(begin + key));
        transpose_block(drawn, simd::kLanes, by + key * kQueryBlock + v * simd::kLanes, kQueryBlock);
      }
  }
};

}  // namespace offsite::ops::detail
#endif
