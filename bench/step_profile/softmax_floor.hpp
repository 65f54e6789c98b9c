// Exactly the operations that softmax needs of one query, key and head besides its products: what attention cannot be below.
#pragma once
#include <cstdint>

#include "offsite/ops/simd.hpp"

namespace bench {

namespace simd = offsite::simd;

/// 2^x for a probability of type T, as attention's kernels compute it.
template <class T, simd::Isa isa>
[[gnu::always_inline]] inline simd::Floats power_of_two(const simd::Floats& x) {
  if constexpr (sizeof(T) == 2) return simd::exp2_rough<isa>(x);
  return simd::exp2_bounded(simd::max<isa>(simd::Floats(-126.0f), x));
}

/// Scores, a row of 32 queries a key -> probabilities of type T: largest score, scale, exponential, sum, rounding.
template <class T>
struct SoftmaxForwardKernel {
  static constexpr bool kUsesBFloat16 = true;
  template <simd::Isa isa>
  [[gnu::always_inline]] static void run(const float* scores, std::int64_t keys, float scale, T* p,
                                         float* lse) {
    for (std::int64_t column = 0; column < 32; column += simd::kLanes) {
      simd::Floats top[2] = {simd::Floats(-1e30f), simd::Floats(-1e30f)}, sums[2];
      for (std::int64_t key = 0; key < keys; key += 2)
#pragma GCC unroll 2
        for (int r = 0; r < 2; ++r)
          top[r] = simd::max<isa>(top[r], simd::load(scores + (key + r) * 32 + column));
      const simd::Floats base = simd::max<isa>(top[0], top[1]) * scale;
      for (std::int64_t key = 0; key < keys; key += 2)
#pragma GCC unroll 2
        for (int r = 0; r < 2; ++r) {
          const auto at = (key + r) * 32 + column;
          const simd::Floats e = power_of_two<T, isa>(simd::load(scores + at) * scale - base);
          sums[r] += e;
          simd::store<isa>(p + at, e);
        }
      simd::store(lse + column, base + sums[0] + sums[1]);
    }
  }
};

/// Scores and gradients of the probabilities -> both rounded: exponential again, <P, dP>, dS = P (dP - <P, dP>) scale.
template <class T>
struct SoftmaxBackwardKernel {
  static constexpr bool kUsesBFloat16 = true;
  template <simd::Isa isa>
  [[gnu::always_inline]] static void run(const float* scores, const float* dp, std::int64_t keys, float scale,
                                         const float* lse, float* kept, T* p, T* ds) {
    for (std::int64_t column = 0; column < 32; column += simd::kLanes) {
      const simd::Floats base = simd::load(lse + column);
      simd::Floats sums[2];
      for (std::int64_t key = 0; key < keys; key += 2)
#pragma GCC unroll 2
        for (int r = 0; r < 2; ++r) {
          const auto at = (key + r) * 32 + column;
          const simd::Floats e = power_of_two<T, isa>(simd::load(scores + at) * scale - base);
          sums[r] += e * simd::load(dp + at);
          simd::store(kept + at, e);
          simd::store<isa>(p + at, e);
        }
      const simd::Floats mean = sums[0] + sums[1];
      for (std::int64_t key = 0; key < keys; key += 2)
#pragma GCC unroll 2
        for (int r = 0; r < 2; ++r) {
          const auto at = (key + r) * 32 + column;
          simd::store<isa>(ds + at, simd::load(kept + at) * (simd::load(dp + at) - mean) * scale);
        }
    }
  }
};

}  // namespace bench
