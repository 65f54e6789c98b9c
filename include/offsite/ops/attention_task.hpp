#pragma once
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>

#include "offsite/ops/dropout.hpp"
#include "offsite/ops/simd.hpp"

namespace offsite::ops::detail {

struct AttentionTensors {
  at::Tensor q, k, v, dout = {}, out = {}, dq = {}, dk = {}, dv = {}, lse = {};
};

constexpr std::int64_t kQueryBlock = 32;  // query rows at a time: bounds the score matrix to 32 x keys

/// Heads of one sequence that see the same keys and values. `position[i]` is query i's; it sees keys
/// 0 .. position[i], the prefix's first, or the last `window` of them.
template <class T>
struct AttentionTask {
  const T *q, *k, *v, *prefix_k, *prefix_v, *dout;
  T *out, *dq, *dk, *dv;
  std::int64_t ldq, ldk, ldv, ldo, lddq, lddk, lddv, ldl;  // elements from row to row
  std::int64_t q_head, o_head, dq_head;                    // elements from head to head
  std::int64_t heads, queries, keys, prefix_keys, depth;
  std::int64_t window;  // 0 = every key up to the query's own
  const std::int64_t* position;
  const DropoutRow* masks;  // `queries` a head, or null
  const float* slopes;      // one a head, or null
  float* lse;
  float scale;
  std::int64_t first_head, sample;  // what masks are drawn for
  float* scratch = nullptr;

  /// The first key that query i sees.
  [[nodiscard]] std::int64_t first_key(std::int64_t i) const {
    return window > 0 ? std::max<std::int64_t>(0, position[i] - window + 1) : 0;
  }
  [[nodiscard]] std::int64_t scratch_size(bool backward) const {
    const auto length = simd::round_up(keys + prefix_keys, simd::kLanes),
               d = simd::round_up(depth, 2 * simd::kLanes);
    return (backward ? 7 : 2) * kQueryBlock * length + (backward ? 6 : 4) * length * d + 8 * kQueryBlock * d;
  }

  /// Asks for the rows begin .. end - 1 of a head, before this task runs in the same thread. They lie pages apart,
  /// where the processor does not fetch ahead by itself: waiting for them took a quarter of attention's time.
  template <bool kBackward>
  [[gnu::always_inline]] void prefetch(std::int64_t head, std::int64_t begin, std::int64_t end) const {
    constexpr auto kCacheLine = static_cast<std::int64_t>(64 / sizeof(T));
    const auto ask = [&](const T* row) __attribute__((always_inline)) {
      for (std::int64_t d = 0; d < depth; d += kCacheLine) __builtin_prefetch(row + d, 0, 2);
    };
    for (auto i = begin; i < std::min(end, queries); ++i) {
      ask(q + head * q_head + i * ldq);
      ask((kBackward ? dout : out) + head * o_head + i * ldo);
      if constexpr (kBackward) ask(dq + head * dq_head + i * lddq);
    }
    for (auto i = begin; i < std::min(end, head == 0 ? keys : 0); ++i) {
      ask(k + i * ldk);
      ask(v + i * ldv);
      if constexpr (kBackward) {
        ask(dk + i * lddk);
        ask(dv + i * lddv);
      }
    }
  }
};

}  // namespace offsite::ops::detail
