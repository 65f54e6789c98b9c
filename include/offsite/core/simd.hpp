#pragma once
#include <cstdint>
#include <cstring>

// Sixteen floats at a time in the vector extensions of GCC and clang: no intrinsics, correct on every target.
// A kernel is inlined once into a function for each instruction set, so a header-only user needs no -march
// flag.

namespace offsite::simd {

constexpr std::int64_t kLanes = 16;

[[nodiscard]] constexpr std::int64_t round_up(std::int64_t n, std::int64_t to) {
  return (n + to - 1) / to * to;
}

/// Instruction sets that kernels are compiled for; `kGeneric` is whatever the compiler was told to assume.
enum class Isa { kGeneric, kAvx2, kAvx512, kAvx512Bf16 };

/// The best instruction set this processor has.
[[nodiscard]] inline Isa best_isa() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
    return __builtin_cpu_supports("avx512bf16") ? Isa::kAvx512Bf16 : Isa::kAvx512;
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
template <class Kernel, Isa isa, class... Args>
#if defined(__clang__)  // the two compilers ask for whole vectors in two ways
[[gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma"), clang::min_vector_width(512)]]
#else
[[gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,prefer-vector-width=512")]]
#endif
void run_avx512(const Args&... args) {
  Kernel::template run<isa>(args...);
}
#endif

}  // namespace detail

/// Calls `Kernel::run<isa>(args...)`, a static function marked always_inline, compiled for the chosen
/// instruction set. AVX-512's instructions for bfloat16 are for the kernels that say `kUsesBFloat16`, which bring them
/// along; for all others they are the same as AVX-512.
template <class Kernel, class... Args>
void run(const Args&... args) {
#if defined(__x86_64__)
  if constexpr (requires { requires Kernel::kUsesBFloat16; })
    if (chosen_isa() == Isa::kAvx512Bf16) return detail::run_avx512<Kernel, Isa::kAvx512Bf16>(args...);
  if (chosen_isa() >= Isa::kAvx512) return detail::run_avx512<Kernel, Isa::kAvx512>(args...);
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

/// One instruction each, which `select` of a comparison is not.
[[gnu::always_inline]] inline Ints min(const Ints& a, const Ints& b) {
  return Ints(a.raw < b.raw ? a.raw : b.raw);
}
[[gnu::always_inline]] inline Ints max(const Ints& a, const Ints& b) {
  return Ints(a.raw > b.raw ? a.raw : b.raw);
}

/// Eight numbers in double, half a `Lanes` wide in elements and as wide in bytes.
using Doubles [[gnu::vector_size(64)]] = double;
using EightFloats [[gnu::vector_size(32)]] = float;

[[gnu::always_inline]] inline Floats load(const float* p) {
  Floats v;
  std::memcpy(&v.raw, p, sizeof v.raw);
  return v;
}
[[gnu::always_inline]] inline void store(float* p, const Floats& v) { std::memcpy(p, &v.raw, sizeof v.raw); }

}  // namespace offsite::simd
