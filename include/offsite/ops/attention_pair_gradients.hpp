#pragma once
#if defined(__x86_64__)
#include <algorithm>
#include <cstdint>

#include "offsite/ops/attention_pair_block.hpp"
#include "offsite/ops/attention_pair_buffers.hpp"
#include "offsite/ops/attention_products.hpp"
#include "offsite/ops/attention_task.hpp"
#include "offsite/ops/padded_rows.hpp"
#include "offsite/ops/simd.hpp"

namespace offsite::ops::detail {

/// The gradients of a task's keys and values: sums of what its queries contribute, kSummed of them at a time.
class PairKeyGradients {
 public:
  /// Adds what queries first .. first + rows - 1 contribute to the keys they see. The last ones of a task write all.
  [[gnu::always_inline]] void add(const AttentionTask<simd::BFloat16>& t, const PairBuffers& b,
                                  std::int64_t first, std::int64_t rows, bool last) {
    const auto begin = PairBlock::first_tile(t, first), m = simd::round_up(rows, 4);
    const auto seen = [&](std::int64_t row) __attribute__((always_inline)) {  // by the strip from `row` on
      return t.position[first + std::min(row + 4, rows) - 1] + 1;
    };
    const auto end = begin + simd::round_up(seen(m - 4) - begin, 4);
    clear(b, written_, begin);
    for (const bool values : {true, false}) {
      std::int64_t i = 0;  // the first strip that sees one of four keys
      for (auto key = begin; key < end; key += 4) {
        while (seen(i) <= key) i += 4;
        const bool adds = key < written_;
        float* sums = last && !adds ? b.o : (values ? b.dv : b.dk) + key * b.d;
        PairProducts::run((values ? b.p_halves : b.ds_halves) + (key * PairBuffers::kSummed + i) / 2,
                          PairBuffers::kSummed / 2, 1, (values ? b.dout_pairs : b.q_pairs) + i / 2 * b.d, b.d,
                          sums, b.d, 4, b.d, (m - i) / 2, adds);
        if (last)  // while they are near the processor
          PairProducts::write(sums, b.d, values ? t.dv + key * t.lddv : t.dk + key * t.lddk,
                              values ? t.lddv : t.lddk, std::min<std::int64_t>(4, t.keys - key), t.depth,
                              nullptr);
      }
    }
    written_ = std::max(written_, end);
    if (last) {
      clear(b, end, t.keys);  // keys that no query saw
      write(t, b, end, t.keys);
      write(t, b, 0, begin);
    }
  }

  /// Zeros, of a task without queries.
  [[gnu::always_inline]] static void write_zeros(const AttentionTask<simd::BFloat16>& t,
                                                 const PairBuffers& b) {
    clear(b, 0, t.keys);
    write(t, b, 0, t.keys);
  }

 private:
  [[gnu::always_inline]] static void clear(const PairBuffers& b, std::int64_t from, std::int64_t to) {
    if (from >= to) return;
    PaddedRows::clear(b.dk + from * b.d, (to - from) * b.d);
    PaddedRows::clear(b.dv + from * b.d, (to - from) * b.d);
  }

  [[gnu::always_inline]] static void write(const AttentionTask<simd::BFloat16>& t, const PairBuffers& b,
                                           std::int64_t from, std::int64_t to) {
    if (from >= to) return;
    PairProducts::write(b.dk + from * b.d, b.d, t.dk + from * t.lddk, t.lddk, to - from, t.depth, nullptr);
    PairProducts::write(b.dv + from * b.d, b.d, t.dv + from * t.lddv, t.lddv, to - from, t.depth, nullptr);
  }

  std::int64_t written_ = 0;  ///< rows of dk and dv that hold sums already
};

}  // namespace offsite::ops::detail
#endif
