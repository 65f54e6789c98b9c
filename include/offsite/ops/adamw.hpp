#pragma once
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_vector_norm.h>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/ops/accumulate.hpp"
#include "offsite/ops/simd.hpp"

namespace offsite::ops {

/// Numbers of one step of AdamW (Loshchilov, Hutter, arXiv:1711.05101, algorithm 2).
struct AdamwStep {
  double learning_rate = 0;
  double beta1 = 0.9, beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0;  ///< decoupled
  double count = 1;         ///< of this step, from 1
  double divisor = 1;       ///< of the gradients, before they are used: for clipping
};

/// What a step reads and writes: flat tensors of n numbers each.
struct AdamwTensors {
  at::Tensor values, gradients, first_moment, second_moment;
  at::Tensor copy;  ///< of the values in another type, written after them; may be undefined
};

namespace detail {

// Compilers will not make vectors of std::sqrt, which may set errno.
template <simd::Isa isa>
[[gnu::always_inline]] inline simd::Floats sqrt(const simd::Floats& x) {
  simd::Floats y;
#if defined(__x86_64__) && !defined(__clang__)  // clang lets no function without AVX-512 name its registers
  if constexpr (isa >= simd::Isa::kAvx512) {
    asm("vsqrtps %1, %0" : "=v"(y.raw) : "v"(x.raw));
    return y;
  }
#endif
#if defined(__SSE__)
  const auto a = _mm_sqrt_ps(__builtin_shufflevector(x.raw, x.raw, 0, 1, 2, 3)),
             b = _mm_sqrt_ps(__builtin_shufflevector(x.raw, x.raw, 4, 5, 6, 7)),
             c = _mm_sqrt_ps(__builtin_shufflevector(x.raw, x.raw, 8, 9, 10, 11)),
             d = _mm_sqrt_ps(__builtin_shufflevector(x.raw, x.raw, 12, 13, 14, 15));
  const auto low = __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7),
             high = __builtin_shufflevector(c, d, 0, 1, 2, 3, 4, 5, 6, 7);
  y.raw = __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#else
  for (int i = 0; i < simd::kLanes; ++i) y.raw[i] = std::sqrt(x.raw[i]);
#endif
  return y;
}

/// Writes past the caches where `isa` can: memory that is written whole need not be read first, and the copy is larger than
/// caches are. \param p  aligned to 32 bytes; other processors see it after `finish_streams`
template <simd::Isa isa, class T>
[[gnu::always_inline]] inline void stream(T* p, const simd::Floats& v) {
#if defined(__x86_64__) && !defined(__clang__)  // as above
  if constexpr (isa >= simd::Isa::kAvx2 && sizeof(T) == 2) {
    simd::Lanes<std::uint16_t>::Raw half;
    simd::store(reinterpret_cast<T*>(&half), v);
    asm("vmovntdq %1, %0" : "=m"(*reinterpret_cast<T(*)[simd::kLanes]>(p)) : "x"(half));
    return;
  }
#endif
  simd::store(p, v);
}
inline void finish_streams() {
#if defined(__SSE__)
  _mm_sfence();
#endif
}

// The order of operations is that of ATen's fused kernel, and so are the bits where the processor has fused multiply-adds:
// but for the decay of weights, which compilers fuse with the sum after it.
struct AdamwKernel {
  template <class T>
  struct Factors {
    T divisor, kept, weight, beta2, second, root, epsilon, rate;
    simd::Ints near;  // -1 where the new first moment is nearer to the old one than to the gradient
  };
  static Factors<float> factors(const AdamwStep& s) {
    const auto number = [](double x) { return static_cast<float>(x); };
    const float weight = number(1 - s.beta1);
    return {.divisor = number(s.divisor),
            .kept = number(1 - s.learning_rate * s.weight_decay),
            .weight = weight < 0.5f ? weight : weight - 1,
            .beta2 = number(s.beta2),
            .second = number(1 - s.beta2),
            .root = number(std::sqrt(1 - std::pow(s.beta2, s.count))),
            .epsilon = number(s.epsilon),
            .rate = number(-s.learning_rate / (1 - std::pow(s.beta1, s.count))),
            .near = weight < 0.5f ? -1 : 0};
  }

  struct Numbers {
    simd::Floats value, first, second;
  };
  template <simd::Isa isa>
  [[gnu::always_inline]] static Numbers step(const Numbers& old, const simd::Floats& gradient,
                                             const Factors<simd::Floats>& f) {
    const simd::Floats g = gradient / f.divisor;
    // m + (1 - beta1) (g - m), from the nearer end: one rounding less than beta1 m + (1 - beta1) g
    const simd::Floats first = (g - old.first) * f.weight + select(f.near, old.first, g);
    const simd::Floats second = old.second * f.beta2 + f.second * g * g;
    return {old.value * f.kept + f.rate * first / (sqrt<isa>(second) / f.root + f.epsilon), first, second};
  }

  /// \param copy  null where none is kept
  template <simd::Isa isa, class Copy>
  [[gnu::always_inline]] static void run(float* value, float* gradient, float* first, float* second,
                                         Copy* copy, std::int64_t n, const Factors<float>& scalar) {
    // Spread over lanes before the loop: compilers do not hoist that past stores of floats.
    const Factors<simd::Floats> f{scalar.divisor, scalar.kept,    scalar.weight, scalar.beta2, scalar.second,
                                  scalar.root,    scalar.epsilon, scalar.rate,   scalar.near};
    const simd::Floats zero(0.0f);
    const bool aligned = reinterpret_cast<std::uintptr_t>(copy) % 32 == 0;
    std::int64_t i = 0;
    for (; i + simd::kLanes <= n; i += simd::kLanes) {
      const Numbers now = step<isa>({simd::load(value + i), simd::load(first + i), simd::load(second + i)},
                                    simd::load(gradient + i), f);
      simd::store(value + i, now.value);
      simd::store(first + i, now.first);
      simd::store(second + i, now.second);
      simd::store(gradient + i, zero);
      if (copy != nullptr && aligned)
        stream<isa>(copy + i, now.value);
      else if (copy != nullptr)
        simd::store(copy + i, now.value);
    }
    finish_streams();
    if (const auto rest = n - i; rest > 0) {
      const Numbers now = step<isa>({simd::load_some(value + i, rest), simd::load_some(first + i, rest),
                                     simd::load_some(second + i, rest)},
                                    simd::load_some(gradient + i, rest), f);
      simd::store_some(value + i, now.value, rest);
      simd::store_some(first + i, now.first, rest);
      simd::store_some(second + i, now.second, rest);
      simd::store_some(gradient + i, zero, rest);
      if (copy != nullptr) simd::store_some(copy + i, now.value, rest);
    }
  }
};

struct SquaredNormKernel {  // *sum = sum of x[i]^2, exact products added in double
  [[gnu::always_inline]] static void add(simd::Doubles* sum, const simd::Floats& x) {
    simd::EightFloats half[2];
    std::memcpy(half, &x.raw, sizeof half);
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      const auto wide = __builtin_convertvector(half[h], simd::Doubles);
      sum[h] += wide * wide;
    }
  }
  template <simd::Isa>
  [[gnu::always_inline]] static void run(const float* x, std::int64_t n, double* sum) {
    simd::Doubles sums[4] = {};  // so many that additions do not wait for each other
    std::int64_t i = 0;
    for (; i + 2 * simd::kLanes <= n; i += 2 * simd::kLanes) {
      add(sums, simd::load(x + i));
      add(sums + 2, simd::load(x + i + simd::kLanes));
    }
    for (; i < n; i += simd::kLanes) add(sums, simd::load_some(x + i, std::min(simd::kLanes, n - i)));
    const simd::Doubles all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    *sum = 0;
    for (int lane = 0; lane < 8; ++lane) *sum += all[lane];
  }
};

constexpr std::int64_t kAdamwBlock = 16384;  // numbers

/// Calls `f(begin, size)` for blocks of `n` numbers, several at a time. Blocks do not depend on the number of threads.
template <class F>
void for_each_block(std::int64_t n, const F& f) {
  at::parallel_for(0, (n + kAdamwBlock - 1) / kAdamwBlock, 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto block = begin; block < end; ++block)
      f(block * kAdamwBlock, std::min(kAdamwBlock, n - block * kAdamwBlock));
  });
}

[[nodiscard]] inline bool is_flat_float(const at::Tensor& t) {
  return t.is_cpu() && t.scalar_type() == at::kFloat && t.is_contiguous();
}

}  // namespace detail

/// The square of the Euclidean norm, summed in double over blocks: the same number whatever the threads and the
/// instruction set, since a product of two floats is exact in double.
[[nodiscard]] inline double squared_norm(const at::Tensor& x) {
  if (!detail::is_flat_float(x)) {
    const double norm = at::linalg_vector_norm(x, 2).item<double>();
    return norm * norm;
  }
  std::vector<double> sums(
      static_cast<std::size_t>((x.numel() + detail::kAdamwBlock - 1) / detail::kAdamwBlock));
  const auto* data = x.const_data_ptr<float>();
  detail::for_each_block(x.numel(), [&](std::int64_t begin, std::int64_t size) {
    simd::run<detail::SquaredNormKernel>(data + begin, size,
                                         sums.data() + static_cast<std::size_t>(begin / detail::kAdamwBlock));
  });
  double sum = 0;
  for (const double block : sums) sum += block;
  return sum;
}

/// One step of AdamW by ATen's operators, which also clears the gradients: the reference.
inline void adamw_reference(const AdamwTensors& t, const AdamwStep& step) {
  const auto scalar = [&](double x) { return at::full({}, x, t.values.options().dtype(at::kFloat)); };
  at::_fused_adamw_({t.values}, {t.gradients}, {t.first_moment}, {t.second_moment}, {}, {scalar(step.count)},
                    step.learning_rate, step.beta1, step.beta2, step.weight_decay, step.epsilon, false, false,
                    scalar(step.divisor));
  t.gradients.zero_();
  if (t.copy.defined()) t.copy.copy_(t.values);
}

/// One step of AdamW that also clears the gradients and refreshes the copy of the values, all in one pass.
///
/// It reads and writes 32 bytes a number and 2 for a copy in bfloat16, as fast as adding 1 to so much memory would.
///
/// float32 on the CPU with a copy in bfloat16, float32 or none; others go to the reference.
inline void adamw_(const AdamwTensors& t, const AdamwStep& step) {
  const auto n = t.values.numel();
  for (const auto* other : {&t.gradients, &t.first_moment, &t.second_moment})
    require(other->numel() == n, "a step of AdamW was given {} values, but {} gradients or moments", n,
            other->numel());
  require(!t.copy.defined() || t.copy.numel() == n, "a step of AdamW was given {} values, but a copy of {}",
          n, t.copy.defined() ? t.copy.numel() : 0);
  bool fast = true;
  for (const auto* flat : {&t.values, &t.gradients, &t.first_moment, &t.second_moment})
    fast = fast && detail::is_flat_float(*flat);
  if (!fast || (t.copy.defined() && !(detail::is_fast(t.copy) && t.copy.is_contiguous())))
    return adamw_reference(t, step);
  auto *values = t.values.mutable_data_ptr<float>(), *gradients = t.gradients.mutable_data_ptr<float>(),
       *first = t.first_moment.mutable_data_ptr<float>(), *second = t.second_moment.mutable_data_ptr<float>();
  const auto factors = detail::AdamwKernel::factors(step);
  with_type(t.copy.defined() ? t.copy : t.values, [&]<class T>(T*) {
    auto* copy = t.copy.defined() ? t.copy.mutable_data_ptr<T>() : nullptr;
    detail::for_each_block(n, [&](std::int64_t begin, std::int64_t size) {
      simd::run<detail::AdamwKernel>(values + begin, gradients + begin, first + begin, second + begin,
                                     copy == nullptr ? copy : copy + begin, size, factors);
    });
  });
}

}  // namespace offsite::ops
