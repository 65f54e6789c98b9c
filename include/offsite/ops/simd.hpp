#pragma once
#include <c10/util/BFloat16.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

// Sixteen floats at a time in the vector extensions of GCC and clang: no intrinsics, correct on every target.
// A kernel is inlined once into a function for each instruction set, so a header-only user needs no -march
// flag.

namespace offsite::simd {

using BFloat16 = c10::BFloat16;

constexpr std::int64_t kLanes = 16;

[[nodiscard]] constexpr std::int64_t round_up(std::int64_t n, std::int64_t to) {
  return (n + to - 1) / to * to;
}

/// Instruction sets that kernels are compiled for; `kGeneric` is whatever the compiler was told to assume.
enum class Isa { kGeneric, kAvx2, kAvx512 };

/// The best instruction set this processor has.
[[nodiscard]] inline Isa best_isa() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
    return Isa::kAvx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::kAvx2;
#endif
  return Isa::kGeneric;
}

/// What kernels run with. Tests lower it to reach every variant; nothing else changes it.
[[nodiscard]] inline Isa& chosen_isa() {
  static Isa isa = best_isa();
  return isa;
}

namespace detail {

template <class Kernel, class... Args>
void run_generic(const Args&... args) {
  Kernel::template run<Isa::kGeneric>(args...);
}
#if defined(__x86_64__)
template <class Kernel, class... Args>
[[gnu::target("avx2,fma")]] void run_avx2(const Args&... args) {
  Kernel::template run<Isa::kAvx2>(args...);
}
template <class Kernel, class... Args>
#if defined(__clang__)  // the two compilers ask for whole vectors in two ways
[[gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma"), clang::min_vector_width(512)]]
#else
[[gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,prefer-vector-width=512")]]
#endif
void run_avx512(const Args&... args) {
  Kernel::template run<Isa::kAvx512>(args...);
}
#endif

}  // namespace detail

/// Calls `Kernel::run<isa>(args...)`, a static function marked always_inline, compiled for the chosen
/// instruction set.
template <class Kernel, class... Args>
void run(const Args&... args) {
#if defined(__x86_64__)
  if (chosen_isa() == Isa::kAvx512) return detail::run_avx512<Kernel>(args...);
  if (chosen_isa() == Isa::kAvx2) return detail::run_avx2<Kernel>(args...);
#endif
  detail::run_generic<Kernel>(args...);
}

/// Sixteen numbers of type T: a vector of GCC's and clang's extensions in a class.
///
/// The class has a copy constructor of its own, so that functions return it through memory in every instruction set
/// (until they are inlined): a bare vector would change its calling convention with the set, and compilers warn.
template <class T>
struct Lanes {
  using Raw [[gnu::vector_size(16 * sizeof(T))]] = T;
  using Mask = Lanes<std::int32_t>;  ///< -1 where true, 0 where false

  Raw raw{};

  [[gnu::always_inline]] Lanes() {}
  [[gnu::always_inline]] Lanes(T x)
      : raw(x - Raw{}) {}  // NOLINT: a number stands for sixteen; x - 0 keeps -0
  [[gnu::always_inline]] explicit Lanes(const Raw& r) : raw(r) {}
  [[gnu::always_inline]] Lanes(const Lanes& other) : raw(other.raw) {}
  [[gnu::always_inline]] Lanes& operator=(const Lanes& other) {
    raw = other.raw;
    return *this;
  }

  [[gnu::always_inline]] friend Lanes operator+(const Lanes& a, const Lanes& b) {
    return Lanes(a.raw + b.raw);
  }
  [[gnu::always_inline]] friend Lanes operator-(const Lanes& a, const Lanes& b) {
    return Lanes(a.raw - b.raw);
  }
  [[gnu::always_inline]] friend Lanes operator*(const Lanes& a, const Lanes& b) {
    return Lanes(a.raw * b.raw);
  }
  [[gnu::always_inline]] friend Lanes operator/(const Lanes& a, const Lanes& b) {
    return Lanes(a.raw / b.raw);
  }
  [[gnu::always_inline]] friend Lanes operator-(const Lanes& a) { return Lanes(-a.raw); }
  [[gnu::always_inline]] friend Lanes operator^(const Lanes& a, const Lanes& b) {
    return Lanes(a.raw ^ b.raw);
  }
  [[gnu::always_inline]] friend Lanes operator|(const Lanes& a, const Lanes& b) {
    return Lanes(a.raw | b.raw);
  }
  [[gnu::always_inline]] friend Lanes operator&(const Lanes& a, const Lanes& b) {
    return Lanes(a.raw & b.raw);
  }
  [[gnu::always_inline]] friend Lanes operator<<(const Lanes& a, int n) { return Lanes(a.raw << n); }
  [[gnu::always_inline]] friend Lanes operator>>(const Lanes& a, int n) { return Lanes(a.raw >> n); }
  [[gnu::always_inline]] Lanes& operator+=(const Lanes& b) {
    raw += b.raw;
    return *this;
  }
  [[gnu::always_inline]] friend Mask operator<(const Lanes& a, const Lanes& b) { return Mask(a.raw < b.raw); }
  [[gnu::always_inline]] friend Mask operator>(const Lanes& a, const Lanes& b) { return Mask(a.raw > b.raw); }
  [[gnu::always_inline]] friend Mask operator>=(const Lanes& a, const Lanes& b) {
    return Mask(a.raw >= b.raw);
  }
  [[gnu::always_inline]] friend Mask operator==(const Lanes& a, const Lanes& b) {
    return Mask(a.raw == b.raw);
  }
  [[gnu::always_inline]] friend Mask operator!=(const Lanes& a, const Lanes& b) {
    return Mask(a.raw != b.raw);
  }
  /// mask ? a : b
  [[gnu::always_inline]] friend Lanes select(const Mask& mask, const Lanes& a, const Lanes& b) {
    return Lanes(mask.raw ? a.raw : b.raw);
  }
  /// The same bits as numbers of another type of 32 bits.
  template <class U>
  [[gnu::always_inline]] Lanes<U> bits_as() const {
    Lanes<U> result;
    std::memcpy(&result.raw, &raw, sizeof raw);
    return result;
  }
};

using Floats = Lanes<float>;
using Ints = Lanes<std::int32_t>;
using Words = Lanes<std::uint32_t>;

[[gnu::always_inline]] inline Floats load(const float* p) {
  Floats v;
  std::memcpy(&v.raw, p, sizeof v.raw);
  return v;
}
[[gnu::always_inline]] inline Floats load(const BFloat16* p) {
  Lanes<std::uint16_t>::Raw h;
  std::memcpy(&h, p, sizeof h);
  return (Words(__builtin_convertvector(h, Words::Raw)) << 16).bits_as<float>();
}
[[gnu::always_inline]] inline void store(float* p, const Floats& v) { std::memcpy(p, &v.raw, sizeof v.raw); }
/// Rounds to nearest, ties to even; a NaN stays one (rounding its bits could carry into infinity).
[[gnu::always_inline]] inline void store(BFloat16* p, const Floats& v) {
  const Words w = v.bits_as<std::uint32_t>();
  const Words rounded = (w + 0x7fffu + ((w >> 16) & 1u)) >> 16, quiet = (w >> 16) | 0x40u;
  const auto h = __builtin_convertvector(select(v != v, quiet, rounded).raw, Lanes<std::uint16_t>::Raw);
  std::memcpy(p, &h, sizeof h);
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

/// exp to about 2 ulp, NaN for NaN. It saturates at e^-87.3 = 1e-38 and e^88.3 = 2e38 instead of 0 and infinity: what
/// softmax and sigmoid make of those is the same, and exact ends would cost a fifth of an activation's time.
[[gnu::always_inline]] inline Floats exp(const Floats& v) {
  const Floats x = select(v > 88.3f, 88.3f, select(v < -87.3f, -87.3f, v));
  const Floats n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;  // to the nearest integer
  const Floats r = x - n * 0.693359375f + n * 2.12194440e-4f;
  Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const Ints exponent(__builtin_convertvector(n.raw, Ints::Raw));
  return p * ((exponent + 127).bits_as<std::uint32_t>() << 23).bits_as<float>();
}
[[gnu::always_inline]] inline float sum(const Floats& v) {
  float s = 0;
  for (int i = 0; i < kLanes; ++i) s += v.raw[i];
  return s;
}
/// The largest lane; NaN lanes count only if the first one is.
[[gnu::always_inline]] inline float max(const Floats& v) {
  float m = v.raw[0];
  for (int i = 1; i < kLanes; ++i) m = v.raw[i] > m ? v.raw[i] : m;
  return m;
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
