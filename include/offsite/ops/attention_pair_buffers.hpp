#pragma once
#if defined(__x86_64__)
#include <cstdint>
#include <utility>

#include "offsite/ops/attention_products.hpp"
#include "offsite/ops/attention_task.hpp"
#include "offsite/ops/simd.hpp"

namespace offsite::ops::detail {

/// Working memory of attention in pairs. Rows of `width` cells are pairs along the depth; those of `d` cells
/// pairs of two rows; `.._t` has a column a query. `p`, `dp` and `factors` have 32 numbers a key; pairs along the
/// keys take the place of P.
struct PairBuffers {
  using Cell = PairProducts::Cell;
  /// Queries whose products with all keys are summed at once: sums are read and written once for so many.
  static constexpr std::int64_t kSummed = 128;

  std::int64_t width = 0, d = 0, length = 0;
  float *p = nullptr, *dp = nullptr, *factors = nullptr, *o = nullptr, *dk = nullptr, *dv = nullptr;
  Cell *k = nullptr, *v = nullptr, *k_pairs = nullptr, *v_pairs = nullptr;
  Cell *q = nullptr, *q_t = nullptr, *q_pairs = nullptr;
  Cell *dout = nullptr, *dout_t = nullptr, *dout_pairs = nullptr;
  Cell *p_halves = nullptr, *ds_halves = nullptr;  ///< a row a key, of pairs along kSummed queries

  /// The parts of a task's scratch.
  template <bool kBackward>
  [[gnu::always_inline]] static PairBuffers of(const AttentionTask<simd::BFloat16>& t) {
    PairBuffers b;
    b.width = simd::round_up(t.depth, 2 * simd::kLanes) / 2;
    b.d = 2 * b.width;
    b.length = simd::round_up(t.prefix_keys + t.keys, simd::kLanes);
    float* at = t.scratch;
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
    return b;
  }
};

}  // namespace offsite::ops::detail
#endif
