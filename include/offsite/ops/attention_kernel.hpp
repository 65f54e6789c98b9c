#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "offsite/ops/attention_pairs.hpp"
#include "offsite/ops/attention_products.hpp"
#include "offsite/ops/attention_task.hpp"
#include "offsite/ops/dropout.hpp"
#include "offsite/ops/simd.hpp"

namespace offsite::ops::detail {

template <bool kBackward, class T>
struct AttentionKernel {
  static constexpr bool kUsesBFloat16 = std::is_same_v<T, simd::BFloat16>;

  /// The keys from, ..., to - 1 that one query of a strip sees.
  struct Range {
    std::int64_t from = 0, to = 0;
  };

  /// p[j] = value for the keys before and after the range, up to whole vectors and n.
  [[gnu::always_inline]] static void fill_outside(float* p, const Range& range, std::int64_t n, float value) {
    const simd::Ints lanes = simd::iota().bits_as<std::int32_t>();
    for (std::int64_t j = 0; j < range.from; j += simd::kLanes)
      simd::store(p + j, select(lanes < static_cast<std::int32_t>(range.from - j), value, simd::load(p + j)));
    for (auto j = range.to / simd::kLanes * simd::kLanes; j < n; j += simd::kLanes)
      simd::store(p + j, select(lanes >= static_cast<std::int32_t>(range.to - j), value, simd::load(p + j)));
  }

  /// Scores of a strip of four queries over `n` padded keys -> exponentials of scale * score - shift, 0 outside
  /// the ranges. Forward: `shift` becomes the largest scaled score and `total` the sums.
  template <simd::Isa isa>
  [[gnu::always_inline]] static void softmax(float* p, std::int64_t ld, const Range (&ranges)[4],
                                             std::int64_t n, float scale, float (&shift)[4],
                                             float (&total)[4]) {
    if constexpr (!kBackward) {
      for (int r = 0; r < 4; ++r) fill_outside(p + r * ld, ranges[r], n, -1e30f);
      simd::Floats top[4];
      for (int r = 0; r < 4; ++r) top[r] = simd::load(p + r * ld);
      for (std::int64_t j = simd::kLanes; j < n; j += simd::kLanes)
#pragma GCC unroll 4
        for (int r = 0; r < 4; ++r) top[r] = simd::max<isa>(top[r], simd::load(p + r * ld + j));
      for (int r = 0; r < 4; ++r) shift[r] = simd::max(top[r]) * scale;
    }
    constexpr float kLog2OfE = 1.44269504f;
    const simd::Floats factor(scale * kLog2OfE), least(-126.0f);  // NaN is not less
    simd::Floats base[4], sums[4];
    for (int r = 0; r < 4; ++r) base[r] = shift[r] * kLog2OfE;
    for (std::int64_t j = 0; j < n; j += simd::kLanes)
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) {
        const simd::Floats e =
            simd::exp2_bounded(simd::max<isa>(least, simd::load(p + r * ld + j) * factor - base[r]));
        if constexpr (!kBackward) sums[r] += e;
        simd::store(p + r * ld + j, e);
      }
    for (int r = 0; r < 4; ++r) {
      if constexpr (!kBackward) total[r] = simd::sum(sums[r]);
      fill_outside(p + r * ld, ranges[r], n, 0);
    }
  }

  /// p[j] += slope (j - own), where `own` is the query's place among the keys.
  [[gnu::always_inline]] static void add_bias(float* p, std::int64_t n, std::int64_t own, float slope) {
    const simd::Floats lanes(__builtin_convertvector(simd::iota().raw, simd::Floats::Raw));
    for (std::int64_t j = 0; j < n; j += simd::kLanes)
      simd::store(p + j, simd::load(p + j) + (lanes + static_cast<float>(j - own)) * slope);
  }

  [[gnu::always_inline]] static void drop(float* p, std::int64_t first, std::int64_t n,
                                          const DropoutRow& given) {
    const DropoutRow mask = given;  // see DropoutKernel
    for (std::int64_t j = 0; j < n; j += simd::kLanes)
      simd::store(p + j, simd::load(p + j) * mask.factors(first + j));
  }

  /// dS = P (dP - <P, dP>) scale in place of dP, for a strip of four queries.
  [[gnu::always_inline]] static void score_gradients(const float* p, float* dp, std::int64_t ld,
                                                     std::int64_t n, float scale) {
    simd::Floats products[4];
    for (std::int64_t j = 0; j < n; j += simd::kLanes)
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) products[r] += simd::load(p + r * ld + j) * simd::load(dp + r * ld + j);
    const simd::Floats mean[4] = {simd::sum(products[0]), simd::sum(products[1]), simd::sum(products[2]),
                                  simd::sum(products[3])};
    for (std::int64_t j = 0; j < n; j += simd::kLanes)
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r)
        simd::store(dp + r * ld + j,
                    simd::load(p + r * ld + j) * (simd::load(dp + r * ld + j) - mean[r]) * scale);
  }

  /// Working memory: rows as wide as `width`, keys padded to `length`; `kt` and `vt` have a column a key.
  struct Buffers {
    std::int64_t width = 0, length = 0;
    float *p = nullptr, *dp = nullptr, *o = nullptr, *q = nullptr, *dout = nullptr;
    float *k = nullptr, *v = nullptr, *kt = nullptr, *vt = nullptr, *dk = nullptr, *dv = nullptr;
  };

  template <simd::Isa isa>
  [[gnu::always_inline]] static void run(const AttentionTask<T>& t, const AttentionTask<T>& next) {
#if defined(__x86_64__)
    if constexpr (isa == simd::Isa::kAvx512Bf16 && kUsesBFloat16)
      PairAttentionKernel<kBackward>::run(t, next);
    else
#endif
      run_floats<isa>(t, next);
  }

 private:
  template <simd::Isa isa>
  [[gnu::always_inline]] static void run_floats(const AttentionTask<T>& t, const AttentionTask<T>& next) {
    using P = FloatProducts<isa>;
    Buffers b{.width = simd::round_up(t.depth, simd::kLanes),
              .length = simd::round_up(t.prefix_keys + t.keys, simd::kLanes)};
    const auto width = b.width, length = b.length;
    float* at = t.scratch;
    const auto take = [&at](std::int64_t count) __attribute__((always_inline)) {
      float* part = at;
      at += count;
      return part;
    };
    b.p = take(kQueryBlock * length);
    b.o = take(kQueryBlock * width);
    b.q = take(kQueryBlock * width);
    b.k = take(length * width);
    b.v = take(length * width);
    b.kt = take(length * width);
    if constexpr (kBackward) {
      b.dp = take(kQueryBlock * length);
      b.dk = take(length * width);
      b.dv = take(length * width);
      b.dout = take(kQueryBlock * width);
      b.vt = take(length * width);
      PaddedRows::clear(b.dk, length * width);
      PaddedRows::clear(b.dv, length * width);
    }
    // Keys before every query's window stay unread: a long cache costs no more than its window.
    const auto unseen = t.queries > 0 ? t.first_key(0) / simd::kLanes * simd::kLanes : 0;
    for (auto key = unseen; key < length; key += simd::kLanes) {
      const auto shared = std::clamp<std::int64_t>(t.prefix_keys - key, 0, simd::kLanes);
      const auto own = std::max<std::int64_t>(key - t.prefix_keys, 0);
      const auto read = [&](const T* prefix, const T* from, std::int64_t ld, float* to)
          __attribute__((always_inline)) {
        if (shared > 0) P::read(prefix + key * ld, ld, shared, t.depth, to, shared);
        P::read(from + own * ld, ld, std::min(simd::kLanes - shared, t.keys - own), t.depth,
                to + shared * width, simd::kLanes - shared);
      };
      read(t.prefix_k, t.k, t.ldk, b.k + key * width);
      read(t.prefix_v, t.v, t.ldv, b.v + key * width);
      PaddedRows::transpose<isa>(b.k + key * width, b.kt + key, width, length);
      if constexpr (kBackward) PaddedRows::transpose<isa>(b.v + key * width, b.vt + key, width, length);
    }

    for (std::int64_t head = 0; head < t.heads; ++head)
      for (std::int64_t first = 0; first < t.queries; first += kQueryBlock)
        run_queries<isa>(t, next, b, head, first, std::min(kQueryBlock, t.queries - first));

    if constexpr (kBackward) {
      P::write(b.dk, width, t.dk, t.lddk, t.keys, t.depth, nullptr);
      P::write(b.dv, width, t.dv, t.lddv, t.keys, t.depth, nullptr);
    }
  }

  /// Queries first .. first + rows - 1 of one head, over the keys that one of them sees. Strips of four rows
  /// leave out the keys after the last of the four.
  template <simd::Isa isa>
  [[gnu::always_inline]] static void run_queries(const AttentionTask<T>& t, const AttentionTask<T>& next,
                                                 const Buffers& buffers, std::int64_t head,
                                                 std::int64_t first, std::int64_t rows) {
    using P = FloatProducts<isa>;
    const Buffers b = buffers;
    const auto width = b.width, length = b.length, m = simd::round_up(rows, 4);
    const auto begin = t.first_key(first) / simd::kLanes * simd::kLanes;      // positions ascend
    const auto seen = [&](std::int64_t row) __attribute__((always_inline)) {  // by the strip from `row` on
      return t.position[first + std::min(row + 4, rows) - 1] + 1 - begin;
    };
    const auto* masks = t.masks ? t.masks + head * t.queries + first : nullptr;
    float factors[kQueryBlock];
    P::read(t.q + head * t.q_head + first * t.ldq, t.ldq, rows, t.depth, b.q, m);
    if constexpr (kBackward)
      P::read(t.dout + head * t.o_head + first * t.ldo, t.ldo, rows, t.depth, b.dout, m);
    for (std::int64_t i = 0; i < m; i += 4) {
      next.template prefetch<kBackward>(head, first + i, first + i + 4);
      const auto keys = simd::round_up(seen(i), 4), n = simd::round_up(keys, simd::kLanes);
      float *p = b.p + i * length, *dp = b.dp + i * length;
      P::run(b.q + i * width, width, 1, b.kt + begin, length, p, length, 4, n, width, false);
      if constexpr (kBackward)
        P::run(b.dout + i * width, width, 1, b.vt + begin, length, dp, length, 4, n, width, false);
      const auto end = std::min<std::int64_t>(4, rows - i);
      Range ranges[4];  // empty past the last row: those become 0
      float shift[4] = {}, total[4] = {};
      for (std::int64_t r = 0; r < end; ++r) {
        const auto own = t.position[first + i + r] - begin;
        ranges[r] = {std::max<std::int64_t>(0, t.first_key(first + i + r) - begin), own + 1};
        if constexpr (kBackward) shift[r] = t.lse[(first + i + r) * t.ldl + head];
        if (t.slopes) add_bias(p + r * length, n, own, t.slopes[head] / t.scale);
      }
      softmax<isa>(p, length, ranges, n, t.scale, shift, total);
      if constexpr (kBackward) {  // for a mask M: dS = P (M dP - <P, M dP>) scale, and P becomes M P
        for (std::int64_t r = 0; r < end && masks; ++r) drop(dp + r * length, begin, n, masks[i + r]);
        score_gradients(p, dp, length, n, t.scale);
      }
      for (std::int64_t r = 0; r < end; ++r) {
        if (masks) drop(p + r * length, begin, n, masks[i + r]);
        if constexpr (kBackward) continue;
        factors[i + r] = 1.0f / total[r];
        t.lse[(first + i + r) * t.ldl + head] = shift[r] + std::log(total[r]);
      }
      P::run(kBackward ? dp : p, length, 1, (kBackward ? b.k : b.v) + begin * width, width, b.o + i * width,
             width, 4, width, keys, false);
    }
    if constexpr (!kBackward) {
      P::write(b.o, width, t.out + head * t.o_head + first * t.ldo, t.ldo, rows, t.depth, factors);
    } else {
      P::write(b.o, width, t.dq + head * t.dq_head + first * t.lddq, t.lddq, rows, t.depth, nullptr);
      std::int64_t i = 0;  // the first strip that sees one of four keys
      for (std::int64_t key = 0, n = simd::round_up(seen(m - 4), 4); key < n; key += 4) {
        while (seen(i) <= key) i += 4;
        P::run(b.p + i * length + key, 1, length, b.dout + i * width, width, b.dv + (begin + key) * width,
               width, 4, width, m - i, true);
        P::run(b.dp + i * length + key, 1, length, b.q + i * width, width, b.dk + (begin + key) * width,
               width, 4, width, m - i, true);
      }
    }
  }
};

}  // namespace offsite::ops::detail
