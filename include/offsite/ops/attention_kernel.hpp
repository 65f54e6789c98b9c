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

/// One head of one sequence. `position[i]` is query i's; it sees keys 0 .. position[i], the prefix's first.
template <class T>
struct AttentionTask {
  const T *q, *k, *v, *prefix_k, *prefix_v, *dout;
  T *out, *dq, *dk, *dv;
  std::int64_t ldq, ldk, ldv, ldo, lddq, lddk, lddv, ldl;  // elements from row to row
  std::int64_t queries, keys, prefix_keys, depth;
  const std::int64_t* position;
  const DropoutRow* masks;  // one a query, or null
  float* lse;
  float scale;
  float* scratch;

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
  /// (rows, columns) -> (columns, rows); both multiples of 16.
  [[gnu::always_inline]] static void transpose(const float* from, float* to, std::int64_t rows,
                                               std::int64_t columns) {
    for (std::int64_t i = 0; i < rows; i += simd::kLanes)
      for (std::int64_t d = 0; d < columns; ++d)
        for (int e = 0; e < simd::kLanes; ++e) to[d * rows + i + e] = from[(i + e) * columns + d];
  }
};

template <bool kBackward>
struct AttentionKernel {
  /// Scores of one query over `n` padded keys -> probabilities, of which the first `seen` count.
  [[gnu::always_inline]] static void softmax(float* p, std::int64_t seen, std::int64_t n, float scale,
                                             float* lse) {
    for (auto j = seen; j < n; ++j) p[j] = -1e30f;
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
    for (auto j = seen; j < n; ++j) p[j] = 0;
  }

  [[gnu::always_inline]] static void drop(float* p, std::int64_t n, const DropoutRow& given) {
    const DropoutRow mask = given;  // see DropoutKernel
    for (std::int64_t j = 0; j < n; j += simd::kLanes)
      simd::store(p + j, simd::load(p + j) * mask.factors(j));
  }

  template <simd::Isa isa, class T>
  [[gnu::always_inline]] static void run(const AttentionTask<T>& t) {
    using Product = SmallProduct<isa>;
    const auto seen_keys = t.prefix_keys + t.keys;
    const auto d = simd::round_up(t.depth, simd::kLanes), length = simd::round_up(seen_keys, simd::kLanes);
    float* at = t.scratch;
    const auto take = [&at](std::int64_t count) __attribute__((always_inline)) {
      float* part = at;
      at += count;
      return part;
    };
    float *p = take(kQueryBlock * length), *q = take(kQueryBlock * d), *o = take(kQueryBlock * d);
    float *k = take(length * d), *v = take(length * d), *kt = take(length * d);
    float *dp = nullptr, *vt = nullptr, *dk = nullptr, *dv = nullptr, *dq = nullptr;
    if constexpr (kBackward) {
      dp = take(kQueryBlock * length);
      dq = take(kQueryBlock * d);
      vt = take(length * d);
      dk = take(length * d);
      dv = take(length * d);
      PaddedRows::clear(dk, length * d);
      PaddedRows::clear(dv, length * d);
    }
    PaddedRows::read(t.prefix_k, t.ldk, t.prefix_keys, t.depth, k);
    PaddedRows::read(t.prefix_v, t.ldv, t.prefix_keys, t.depth, v);
    PaddedRows::read(t.k, t.ldk, t.keys, t.depth, k + t.prefix_keys * d);
    PaddedRows::read(t.v, t.ldv, t.keys, t.depth, v + t.prefix_keys * d);
    PaddedRows::clear(k + seen_keys * d, (length - seen_keys) * d);
    PaddedRows::clear(v + seen_keys * d, (length - seen_keys) * d);
    PaddedRows::transpose(k, kt, length, d);
    if constexpr (kBackward) PaddedRows::transpose(v, vt, length, d);

    for (std::int64_t first = 0; first < t.queries; first += kQueryBlock) {
      const auto rows = std::min(kQueryBlock, t.queries - first), m = simd::round_up(rows, 4);
      const auto n = simd::round_up(t.position[first + rows - 1] + 1, simd::kLanes);  // positions ascend
      PaddedRows::read(t.q + first * t.ldq, t.ldq, rows, t.depth, q);
      PaddedRows::clear(q + rows * d, (m - rows) * d);
      Product::run(q, d, 1, kt, length, p, length, m, n, d, false);
      for (std::int64_t r = 0; r < rows; ++r)
        softmax(p + r * length, t.position[first + r] + 1, n, t.scale, t.lse + (first + r) * t.ldl);
      for (auto r = rows; r < m; ++r) PaddedRows::clear(p + r * length, n);
      if constexpr (!kBackward) {
        for (std::int64_t r = 0; r < rows && t.masks; ++r) drop(p + r * length, n, t.masks[first + r]);
        Product::run(p, length, 1, v, d, o, d, m, d, n, false);
        PaddedRows::write(o, t.out + first * t.ldo, t.ldo, rows, t.depth);
      } else {
        PaddedRows::read(t.dout + first * t.ldo, t.ldo, rows, t.depth, o);
        PaddedRows::clear(o + rows * d, (m - rows) * d);
        Product::run(o, d, 1, vt, length, dp, length, m, n, d, false);
        for (std::int64_t r = 0; r < m;
             ++r) {  // dS = P (M dP - <P, M dP>) scale, for a mask M; P becomes M P
          float *pr = p + r * length, *dpr = dp + r * length;
          const DropoutRow* mask = t.masks && r < rows ? t.masks + first + r : nullptr;
          if (mask) drop(dpr, n, *mask);
          simd::Floats product{};
          for (std::int64_t j = 0; j < n; j += simd::kLanes)
            product += simd::load(pr + j) * simd::load(dpr + j);
          const float mean = simd::sum(product);
          for (std::int64_t j = 0; j < n; j += simd::kLanes)
            simd::store(dpr + j, simd::load(pr + j) * (simd::load(dpr + j) - mean) * t.scale);
          if (mask) drop(pr, n, *mask);
        }
        Product::run(p, 1, length, o, d, dv, d, n, d, m, true);
        Product::run(dp, length, 1, k, d, dq, d, m, d, n, false);
        PaddedRows::write(dq, t.dq + first * t.lddq, t.lddq, rows, t.depth);
        Product::run(dp, 1, length, q, d, dk, d, n, d, m, true);
      }
    }
    if constexpr (kBackward) {
      PaddedRows::write(dk, t.dk, t.lddk, t.keys, t.depth);
      PaddedRows::write(dv, t.dv, t.lddv, t.keys, t.depth);
    }
  }
};

}  // namespace offsite::ops::detail
