#pragma once
#include <c10/util/BFloat16.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "offsite/core/simd.hpp"

// What kernels on activations need besides: bfloat16, exp, sums of lanes, working memory.

namespace offsite::simd {

using BFloat16 = c10::BFloat16;

[[gnu::always_inline]] inline Floats load(const BFloat16* p) {
  Lanes<std::uint16_t>::Raw h;
  std::memcpy(&h, p, sizeof h);
  return (Words(__builtin_convertvector(h, Words::Raw)) << 16).bits_as<float>();
}
/// The same in one instruction and a shift where `isa` has wider ones: GCC 12 makes five of the conversion.
template <Isa isa>
[[gnu::always_inline]] inline Floats load(const float* p) {
  return load(p);
}
template <Isa isa>
[[gnu::always_inline]] inline Floats load(const BFloat16* p) {
#if defined(__x86_64__) && !defined(__clang__)  // clang needs no help
  if constexpr (isa >= Isa::kAvx512) {
    Words w;
    asm("vpmovzxwd %1, %0" : "=v"(w.raw) : "m"(*reinterpret_cast<const BFloat16(*)[kLanes]>(p)));
    return (w << 16).bits_as<float>();
  }
#endif
  return load(p);
}
/// Rounds to nearest, ties to even; a NaN stays one (rounding its bits could carry into infinity).
[[gnu::always_inline]] inline void store(BFloat16* p, const Floats& v) {
  const Words w = v.bits_as<std::uint32_t>();
  const Words rounded = (w + 0x7fffu + ((w >> 16) & 1u)) >> 16, quiet = (w >> 16) | 0x40u;
  const auto h = __builtin_convertvector(select(v != v, quiet, rounded).raw, Lanes<std::uint16_t>::Raw);
  std::memcpy(p, &h, sizeof h);
}
/// The same by one instruction where `isa` has it, which writes zeros for the numbers below 1.2e-38 that are not normal.
template <Isa isa>
[[gnu::always_inline]] inline void store(float* p, const Floats& v) {
  store(p, v);
}
template <Isa isa>
[[gnu::always_inline]] inline void store(BFloat16* p, const Floats& v) {
#if defined(__x86_64__) && !defined(__clang__)  // clang lets no function without AVX-512 name its registers
  if constexpr (isa == Isa::kAvx512Bf16) {
    Lanes<std::uint16_t>::Raw half;
    asm("vcvtneps2bf16 %1, %0" : "=v"(half) : "v"(v.raw));
    std::memcpy(p, &half, sizeof half);
    return;
  }
#endif
  store(p, v);
}
/// The first `n` < 16 values; the other lanes are zero.
template <class T>
[[gnu::always_inline]] inline Floats load_some(const T* p, std::int64_t n) {
  T buffer[kLanes] = {};
  std::memcpy(buffer, p, static_cast<std::size_t>(n) * sizeof(T));
  return load(buffer);
}
template <class T>
[[gnu::always_inline]] inline void store_some(T* p, const Floats& v, std::int64_t n) {
  T buffer[kLanes];
  store(buffer, v);
  std::memcpy(p, buffer, static_cast<std::size_t>(n) * sizeof(T));
}

namespace detail {

/// A float of magnitude 2^22 has no bits behind the point: added, it rounds a number n to an integer, and the lowest bits of
/// the sum are those of n + 127, which is 2^n's exponent in a float.
constexpr float kExponentShift = 12582912.0f + 127.0f;
/// 2^n of n + kExponentShift, -126 <= n <= 127.
[[gnu::always_inline]] inline Floats power_of_two(const Floats& shifted) {
  return (shifted.bits_as<std::uint32_t>() << 23).bits_as<float>();
}

}  // namespace detail

/// exp to about 2 ulp, NaN for NaN. It saturates at e^-87.3 = 1e-38 and e^88.3 = 2e38 instead of 0 and infinity: what
/// softmax and sigmoid make of those is the same, and exact ends would cost a fifth of an activation's time.
[[gnu::always_inline]] inline Floats exp(const Floats& v) {
  const Floats x = select(v > 88.3f, 88.3f, select(v < -87.3f, -87.3f, v));
  const Floats shifted = x * 1.44269504f + detail::kExponentShift;  // rounds to the nearest integer
  const Floats n = shifted - detail::kExponentShift;
  const Floats r = x - n * 0.693359375f + n * 2.12194440e-4f;
  Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return p * detail::power_of_two(shifted);
}
/// 2^x to about 2 ulp for x in [-126, 127], NaN for NaN; anything for others. Half of `exp`: for what is bounded anyway,
/// with the logarithm of the base in a factor that it has already.
[[gnu::always_inline]] inline Floats exp2_bounded(const Floats& x) {
  const Floats shifted = x + detail::kExponentShift, r = x - (shifted - detail::kExponentShift);
  Floats p =
      r * 1.326472731e-3f + 9.671512991e-3f;  // least largest relative error on [-1/2, 1/2]: 1.7e-7 in float
  p = p * r + 5.550733581e-2f;
  p = p * r + 2.402224243e-1f;
  p = p * r + 6.931470037e-1f;
  p = p * r + 1.0f;
  return p * detail::power_of_two(shifted);
}
/// a < b ? a : b and a > b ? a : b: b where one is NaN. One instruction where `isa` has whole vectors.
template <Isa isa>
[[gnu::always_inline]] inline Floats min(const Floats& a, const Floats& b) {
  if constexpr (isa >= Isa::kAvx512) return Floats(a.raw < b.raw ? a.raw : b.raw);
  return select(a < b, a, b);  // GCC 12 makes scalars of the above
}
template <Isa isa>
[[gnu::always_inline]] inline Floats max(const Floats& a, const Floats& b) {
  if constexpr (isa >= Isa::kAvx512) return Floats(a.raw > b.raw ? a.raw : b.raw);
  return select(a > b, a, b);
}
/// 2^x to 3e-6 for -126 <= x <= 127, at most 1.2e-38 for smaller ones, NaN for NaN: a thousandth of what rounding the
/// result to bfloat16 costs. Eight operations where `isa` scales by powers of two.
template <Isa isa>
[[gnu::always_inline]] inline Floats exp2_rough(const Floats& x) {
#if defined(__x86_64__) && !defined(__clang__)
  if constexpr (isa >= Isa::kAvx512) {
    Floats n, result;
    asm("vrndscaleps $0, %1, %0" : "=v"(n.raw) : "v"(x.raw));
    const Floats r = x - n;
    Floats p = r * 9.582838370e-3f + 5.590646285e-2f;
    p = p * r + 2.402409908e-1f;
    p = p * r + 6.931241893e-1f;
    p = p * r + 1.0f;
    asm("vscalefps %2, %1, %0" : "=v"(result.raw) : "v"(p.raw), "v"(n.raw));
    return result;
  }
#endif
  return exp2_bounded(max<isa>(Floats(-126.0f), x));
}
[[gnu::always_inline]] inline float sum(const Floats& v) {
  using Eight [[gnu::vector_size(32)]] = float;
  using Four [[gnu::vector_size(16)]] = float;
  Eight low, high;  // halves, so that four additions wait for each other and not fifteen
  std::memcpy(&low, &v.raw, sizeof low);
  std::memcpy(&high, reinterpret_cast<const char*>(&v.raw) + sizeof low, sizeof high);
  low += high;
  Four a, b;
  std::memcpy(&a, &low, sizeof a);
  std::memcpy(&b, reinterpret_cast<const char*>(&low) + sizeof a, sizeof b);
  a += b;
  return (a[0] + a[2]) + (a[1] + a[3]);
}
/// The largest lane; any of them if one is NaN.
[[gnu::always_inline]] inline float max(const Floats& v) {
  using Eight [[gnu::vector_size(32)]] = float;
  using Four [[gnu::vector_size(16)]] = float;
  Eight low, high;
  std::memcpy(&low, &v.raw, sizeof low);
  std::memcpy(&high, reinterpret_cast<const char*>(&v.raw) + sizeof low, sizeof high);
  low = low > high ? low : high;
  Four a, b;
  std::memcpy(&a, &low, sizeof a);
  std::memcpy(&b, reinterpret_cast<const char*>(&low) + sizeof a, sizeof b);
  a = a > b ? a : b;
  const float even = a[0] > a[2] ? a[0] : a[2], odd = a[1] > a[3] ? a[1] : a[3];
  return even > odd ? even : odd;
}
[[gnu::always_inline]] inline Floats max(const Floats& a, const Floats& b) { return select(a > b, a, b); }

/// Lane numbers 0 .. 15.
[[gnu::always_inline]] inline Words iota() {
  return Words(Words::Raw{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15});
}

/// A thread's working memory, 64-byte aligned and kept between calls.
class Scratch {
 public:
  /// At least `count` floats with any values, valid until the next call in this thread.
  [[nodiscard]] static float* floats(std::int64_t count) {
    static thread_local Scratch own;
    if (count > own.size_) {
      own.size_ = round_up(count + count / 4, kLanes);
      own.memory_.reset();  // before the new allocation: both need not fit at once
      own.memory_.reset(
          static_cast<float*>(std::aligned_alloc(64, static_cast<std::size_t>(own.size_) * sizeof(float))));
      if (!own.memory_) {
        own.size_ = 0;
        throw std::bad_alloc();
      }
    }
    return own.memory_.get();
  }

 private:
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  std::unique_ptr<float[], Free> memory_;
  std::int64_t size_ = 0;
};

}  // namespace offsite::simd
