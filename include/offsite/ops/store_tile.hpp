#pragma once
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <cstdint>

#include "offsite/ops/simd.hpp"

namespace offsite::ops::detail {

/// y = c + bias for a tile of sums, rounded to nearest even for bfloat16. `bias` may be null.
struct StoreTile {
#if defined(__x86_64__)
  template <class T>
  [[gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]] static void run(
      const float* c, std::int64_t c_ld, const T* bias, T* y, std::int64_t y_ld, std::int64_t rows,
      std::int64_t columns) {
    for (std::int64_t j = 0; j < columns; j += simd::kLanes) {
      const auto lanes = static_cast<__mmask16>((1u << std::min(simd::kLanes, columns - j)) - 1);
      __m512 add = _mm512_setzero_ps();
      if (bias != nullptr) {
        if constexpr (sizeof(T) == sizeof(float))
          add = _mm512_maskz_loadu_ps(lanes, bias + j);
        else
          add = _mm512_castsi512_ps(_mm512_maskz_slli_epi32(
              lanes, _mm512_maskz_cvtepu16_epi32(lanes, _mm256_maskz_loadu_epi16(lanes, bias + j)), 16));
      }
      for (std::int64_t i = 0; i < rows; ++i) {
        const __m512 sum = _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, c + i * c_ld + j), add);
        if constexpr (sizeof(T) == sizeof(float))
          _mm512_mask_storeu_ps(y + i * y_ld + j, lanes, sum);
        else
          _mm256_mask_storeu_epi16(y + i * y_ld + j, lanes,
                                   reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(sum)));
      }
    }
  }
#else
  template <class T>
  static void run(const float*, std::int64_t, const T*, T*, std::int64_t, std::int64_t, std::int64_t) {}
#endif
};

}  // namespace offsite::ops::detail
