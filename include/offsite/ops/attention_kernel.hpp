#pragma once
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

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
  float* scratch;

  /// The first key that query i sees.
  [[nodiscard]] std::int64_t first_key(std::int64_t i) const {
    return window > 0 ? std::max<std::int64_t>(0, position[i] - window + 1) : 0;
  }
  [[nodiscard]] std::int64_t scratch_size(bool backward) const {
    const auto length = simd::round_up(keys + prefix_keys, simd::kLanes),
               d = simd::round_up(depth, simd::kLanes);
    return (backward ? 2 : 1) * kQueryBlock * length + (backward ? 6 : 3) * length * d + 3 * kQueryBlock * d;
  }
};

/// C[m, n] (+)= A[m, k] B[k, n] in tiles that stay in registers; m a multiple of 4, n of 16. A by strides.
template <simd::Isa isa>
struct SmallProduct {
  // 4 x 4 vectors fill 16 of AVX-512's 32 registers; the other sets have 16, each half as wide or less.
  static constexpr int kWide = isa == simd::Isa::kAvx512 ? 4 : 1;

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
};

/// Copies between packed rows of any type and float32 rows whose width is padded with zeros to whole vectors.
struct PaddedRows {
  template <class T>
  [[gnu::always_inline]] static void read(const T* from, std::int64_t ld, std::int64_t rows,
                                          std::int64_t depth, float* to) {
    const auto whole = depth / simd::kLanes * simd::kLanes, padded = simd::round_up(depth, simd::kLanes);
    for (std::int64_t i = 0; i < rows; ++i) {
      for (std::int64_t d = 0; d < whole; d += simd::kLanes)
        simd::store(to + i * padded + d, simd::load(from + i * ld + d));
      if (whole < depth)
        simd::store(to + i * padded + whole, simd::load_some(from + i * ld + whole, depth - whole));
    }
  }
  template <class T>
  [[gnu::always_inline]] static void write(const float* from, T* to, std::int64_t ld, std::int64_t rows,
                                           std::int64_t depth) {
    const auto whole = depth / simd::kLanes * simd::kLanes, padded = simd::round_up(depth, simd::kLanes);
    for (std::int64_t i = 0; i < rows; ++i) {
      for (std::int64_t d = 0; d < whole; d += simd::kLanes)
        simd::store(to + i * ld + d, simd::load(from + i * padded + d));
      if (whole < depth)
        simd::store_some(to + i * ld + whole, simd::load(from + i * padded + whole), depth - whole);
    }
  }
  [[gnu::always_inline]] static void clear(float* to, std::int64_t count) {
    std::memset(to, 0, static_cast<std::size_t>(count) * sizeof(float));
  }
  /// (rows, columns) -> (columns, rows) in rows of `ld`; both multiples of 16.
  [[gnu::always_inline]] static void transpose(const float* from, float* to, std::int64_t rows,
                                               std::int64_t columns, std::int64_t ld) {
    for (std::int64_t i = 0; i < rows; i += simd::kLanes)
      for (std::int64_t d = 0; d < columns; ++d)
        for (int e = 0; e < simd::kLanes; ++e) to[d * ld + i + e] = from[(i + e) * columns + d];
  }
};

template <bool kBackward>
struct AttentionKernel {
  /// Scores of one query over `n` padded keys -> probabilities, of which `from` .. `to` count.
  [[gnu::always_inline]] static void softmax(float* p, std::int64_t from, std::int64_t to, std::int64_t n,
                                             float scale, float* lse) {
    for (std::int64_t j = 0; j < from; ++j) p[j] = -1e30f;
    for (auto j = to; j < n; ++j) p[j] = -1e30f;
    float shift = *lse;
    if constexpr (!kBackward) {
      simd::Floats top = simd::load(p);
      for (std::int64_t j = simd::kLanes; j < n; j += simd::kLanes) top = simd::max(top, simd::load(p + j));
      shift = simd::max(top) * scale;
    }
    simd::Floats total{};
    for (std::int64_t j = 0; j < n; j += simd::kLanes) {
      const simd::Floats e = simd::exp(simd::load(p + j) * scale - shift);
      total += e;
      simd::store(p + j, e);
    }
    if constexpr (!kBackward) {
      const float denominator = simd::sum(total), factor = 1.0f / denominator;
      *lse = shift + std::log(denominator);
      for (std::int64_t j = 0; j < n; j += simd::kLanes) simd::store(p + j, simd::load(p + j) * factor);
    }
    for (std::int64_t j = 0; j < from; ++j) p[j] = 0;
    for (auto j = to; j < n; ++j) p[j] = 0;
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

  /// Working memory; rows of keys and values are padded to whole vectors, and so is their number.
  struct Buffers {
    std::int64_t d = 0, length = 0;
    float *p = nullptr, *q = nullptr, *o = nullptr, *k = nullptr, *v = nullptr, *kt = nullptr;
    float *dp = nullptr, *dq = nullptr, *vt = nullptr, *dk = nullptr, *dv = nullptr;
  };

  template <simd::Isa isa, class T>
  [[gnu::always_inline]] static void run(const AttentionTask<T>& t) {
    const auto seen_keys = t.prefix_keys + t.keys;
    Buffers b{.d = simd::round_up(t.depth, simd::kLanes), .length = simd::round_up(seen_keys, simd::kLanes)};
    const auto d = b.d, length = b.length;
    float* at = t.scratch;
    const auto take = [&at](std::int64_t count) __attribute__((always_inline)) {
      float* part = at;
      at += count;
      return part;
    };
    b.p = take(kQueryBlock * length);
    b.q = take(kQueryBlock * d);
    b.o = take(kQueryBlock * d);
    b.k = take(length * d);
    b.v = take(length * d);
    b.kt = take(length * d);
    if constexpr (kBackward) {
      b.dp = take(kQueryBlock * length);
      b.dq = take(kQueryBlock * d);
      b.vt = take(length * d);
      b.dk = take(length * d);
      b.dv = take(length * d);
      PaddedRows::clear(b.dk, length * d);
      PaddedRows::clear(b.dv, length * d);
    }
    // Keys before every query's window stay unread: a long cache costs no more than its window.
    const auto unseen = t.queries > 0 ? t.first_key(0) / simd::kLanes * simd::kLanes : 0;
    const auto skip = std::min(unseen, t.prefix_keys), own = unseen - skip;
    PaddedRows::read(t.prefix_k + skip * t.ldk, t.ldk, t.prefix_keys - skip, t.depth, b.k + skip * d);
    PaddedRows::read(t.prefix_v + skip * t.ldv, t.ldv, t.prefix_keys - skip, t.depth, b.v + skip * d);
    PaddedRows::read(t.k + own * t.ldk, t.ldk, t.keys - own, t.depth, b.k + (t.prefix_keys + own) * d);
    PaddedRows::read(t.v + own * t.ldv, t.ldv, t.keys - own, t.depth, b.v + (t.prefix_keys + own) * d);
    PaddedRows::clear(b.k + seen_keys * d, (length - seen_keys) * d);
    PaddedRows::clear(b.v + seen_keys * d, (length - seen_keys) * d);
    PaddedRows::transpose(b.k + unseen * d, b.kt + unseen, length - unseen, d, length);
    if constexpr (kBackward)
      PaddedRows::transpose(b.v + unseen * d, b.vt + unseen, length - unseen, d, length);

    for (std::int64_t head = 0; head < t.heads; ++head)
      for (std::int64_t first = 0; first < t.queries; first += kQueryBlock)
        run_queries<isa>(t, b, head, first, std::min(kQueryBlock, t.queries - first));

    if constexpr (kBackward) {
      PaddedRows::write(b.dk, t.dk, t.lddk, t.keys, t.depth);
      PaddedRows::write(b.dv, t.dv, t.lddv, t.keys, t.depth);
    }
  }

  /// Queries first .. first + rows - 1 of one head, over the keys that one of them sees.
  template <simd::Isa isa, class T>
  [[gnu::always_inline]] static void run_queries(const AttentionTask<T>& t, const Buffers& buffers,
                                                 std::int64_t head, std::int64_t first, std::int64_t rows) {
    using Product = SmallProduct<isa>;
    const Buffers b = buffers;
    const auto d = b.d, length = b.length, m = simd::round_up(rows, 4);
    const auto begin = t.first_key(first) / simd::kLanes * simd::kLanes;  // positions ascend
    const auto n = simd::round_up(t.position[first + rows - 1] + 1 - begin, simd::kLanes);
    const auto* masks = t.masks ? t.masks + head * t.queries + first : nullptr;
    PaddedRows::read(t.q + head * t.q_head + first * t.ldq, t.ldq, rows, t.depth, b.q);
    PaddedRows::clear(b.q + rows * d, (m - rows) * d);
    Product::run(b.q, d, 1, b.kt + begin, length, b.p, length, m, n, d, false);
    for (std::int64_t r = 0; r < rows; ++r) {
      const auto own = t.position[first + r] - begin;
      if (t.slopes) add_bias(b.p + r * length, n, own, t.slopes[head] / t.scale);
      softmax(b.p + r * length, t.first_key(first + r) - begin, own + 1, n, t.scale,
              t.lse + (first + r) * t.ldl + head);
    }
    for (auto r = rows; r < m; ++r) PaddedRows::clear(b.p + r * length, n);
    if constexpr (!kBackward) {
      for (std::int64_t r = 0; r < rows && masks; ++r) drop(b.p + r * length, begin, n, masks[r]);
      Product::run(b.p, length, 1, b.v + begin * d, d, b.o, d, m, d, n, false);
      PaddedRows::write(b.o, t.out + head * t.o_head + first * t.ldo, t.ldo, rows, t.depth);
    } else {
      PaddedRows::read(t.dout + head * t.o_head + first * t.ldo, t.ldo, rows, t.depth, b.o);
      PaddedRows::clear(b.o + rows * d, (m - rows) * d);
      Product::run(b.o, d, 1, b.vt + begin, length, b.dp, length, m, n, d, false);
      for (std::int64_t r = 0; r < m; ++r) {  // dS = P (M dP - <P, M dP>) scale, for a mask M; P becomes M P
        float *pr = b.p + r * length, *dpr = b.dp + r * length;
        const DropoutRow* mask = masks && r < rows ? masks + r : nullptr;
        if (mask) drop(dpr, begin, n, *mask);
        simd::Floats product{};
        for (std::int64_t j = 0; j < n; j += simd::kLanes)
          product += simd::load(pr + j) * simd::load(dpr + j);
        const float mean = simd::sum(product);
        for (std::int64_t j = 0; j < n; j += simd::kLanes)
          simd::store(dpr + j, simd::load(pr + j) * (simd::load(dpr + j) - mean) * t.scale);
        if (mask) drop(pr, begin, n, *mask);
      }
      Product::run(b.p, 1, length, b.o, d, b.dv + begin * d, d, n, d, m, true);
      Product::run(b.dp, length, 1, b.k + begin * d, d, b.dq, d, m, d, n, false);
      PaddedRows::write(b.dq, t.dq + head * t.dq_head + first * t.lddq, t.lddq, rows, t.depth);
      Product::run(b.dp, 1, length, b.q, d, b.dk + begin * d, d, n, d, m, true);
    }
  }
};

}  // namespace offsite::ops::detail
