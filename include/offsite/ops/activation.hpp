#pragma once
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/gelu_backward.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/tanh_backward.h>
#include <ATen/ops/threshold_backward.h>

#include <array>
#include <cstdint>
#include <string_view>
#include <utility>

#include "offsite/core/error.hpp"
#include "offsite/ops/accumulate.hpp"
#include "offsite/ops/simd.hpp"

namespace offsite {

/// Activation functions of feed-forward parts.
enum class Activation : std::uint8_t {
  kGeluTanh,   ///< x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2 (Hendrycks, Gimpel, arXiv:1606.08415)
  kGelu,       ///< x (1 + erf(x / sqrt 2)) / 2
  kQuickGelu,  ///< x sigmoid(1.702 x)
  kRelu,       ///< max(x, 0)
  kSilu,       ///< x sigmoid(x)
  kTanh,       ///< tanh x
};

/// The activation that Hugging Face's configurations call `name`.
/// \throws ArgumentError, listing the known names, if there is none.
[[nodiscard]] inline Activation activation_of(std::string_view name) {
  using enum Activation;
  constexpr std::array<std::pair<std::string_view, Activation>, 10> known{{{"gelu_new", kGeluTanh},
                                                                           {"gelu_fast", kGeluTanh},
                                                                           {"gelu_pytorch_tanh", kGeluTanh},
                                                                           {"gelu", kGelu},
                                                                           {"gelu_python", kGelu},
                                                                           {"quick_gelu", kQuickGelu},
                                                                           {"relu", kRelu},
                                                                           {"silu", kSilu},
                                                                           {"swish", kSilu},
                                                                           {"tanh", kTanh}}};
  for (const auto& [known_name, value] : known)
    if (known_name == name) return value;
  throw ArgumentError(
      formatted("the activation function \"{}\" is not known; the known ones are gelu_new, gelu_fast, "
                "gelu_pytorch_tanh, gelu, "
                "gelu_python, quick_gelu, relu, silu, swish and tanh",
                name));
}

namespace ops {
namespace detail {

/// Activations of the form x sigmoid(z(x)), z = x (a + b x^2): all but a few.
struct SigmoidForm {
  float a = 0, b = 0;
  float limit =
      0;  ///< |z| is about 86 there: the sigmoid has long been 0 or 1, and e^z is still a normal float
  [[nodiscard]] static SigmoidForm of(Activation f) {
    switch (f) {
      case Activation::kGeluTanh:
        return {1.5957691216f, 0.0713548162726f, 9.93f};  // 2 sqrt(2/pi), and that * 0.044715
      case Activation::kQuickGelu:
        return {1.702f, 0, 50};
      case Activation::kSilu:
        return {1, 0, 86};
      default:
        return {};
    }
  }
  [[nodiscard]] bool usable() const { return a != 0; }
};

/// A form's numbers, each in all lanes: spread before a loop, since compilers do not hoist that past stores of floats.
struct SigmoidLanes {
  simd::Floats low, high, a, slope_b;
  simd::Floats exponent_a, exponent_b;  // of 2 rather than e, and negative

  [[gnu::always_inline]] explicit SigmoidLanes(const SigmoidForm& f)
      : low(-f.limit),
        high(f.limit),
        a(f.a),
        slope_b(3 * f.b),
        exponent_a(-1.44269504f * f.a),
        exponent_b(-1.44269504f * f.b) {}
};

/// x and the sigmoid at x, from which both the activation and its slope follow. NaN stays NaN.
///
/// What it takes is the processor's time for about 25 instructions on 16 numbers, not that of memory.
struct SigmoidPoint {
  simd::Floats x;        // not below the form's limit, so that minus infinity is not multiplied by 0
  simd::Floats c;        // not above it either
  simd::Floats square;   // of c
  simd::Floats sigmoid;  // of z(c)

  template <simd::Isa isa>
  [[gnu::always_inline]] static SigmoidPoint at(const simd::Floats& x, const SigmoidLanes& f) {
    SigmoidPoint p;
    p.x = simd::max<isa>(f.low, x);
    p.c = simd::min<isa>(f.high, p.x);
    p.square = p.c * p.c;
    p.sigmoid =
        simd::Floats(1.0f) / (simd::exp2_bounded(p.c * (p.square * f.exponent_b + f.exponent_a)) + 1.0f);
    return p;
  }
  [[gnu::always_inline]] simd::Floats value() const { return x * sigmoid; }
  [[gnu::always_inline]] simd::Floats slope(const SigmoidLanes& f) const {
    return sigmoid + (sigmoid - sigmoid * sigmoid) * (c * (square * f.slope_b + f.a));
  }
};

struct ActivationKernel {
  static constexpr bool kUsesBFloat16 = true;

  template <simd::Isa isa, class T>
  [[gnu::always_inline]] static void run(const T* x, T* y, std::int64_t n, const SigmoidForm& form) {
    const SigmoidLanes f(form);
    std::int64_t i = 0;
    for (; i + simd::kLanes <= n; i += simd::kLanes)
      simd::store<isa>(y + i, SigmoidPoint::at<isa>(simd::load<isa>(x + i), f).value());
    if (i < n)
      simd::store_some(y + i, SigmoidPoint::at<isa>(simd::load_some(x + i, n - i), f).value(), n - i);
  }
};

struct ActivationBackwardKernel {
  static constexpr bool kUsesBFloat16 = true;

  template <simd::Isa isa, class T>
  [[gnu::always_inline]] static void run(T* d, const T* x, std::int64_t n, const SigmoidForm& form) {
    const SigmoidLanes f(form);
    std::int64_t i = 0;
    for (; i + simd::kLanes <= n; i += simd::kLanes)
      simd::store<isa>(d + i,
                       simd::load<isa>(d + i) * SigmoidPoint::at<isa>(simd::load<isa>(x + i), f).slope(f));
    if (i < n)
      simd::store_some(
          d + i,
          simd::load_some(d + i, n - i) * SigmoidPoint::at<isa>(simd::load_some(x + i, n - i), f).slope(f),
          n - i);
  }
};

[[nodiscard]] inline bool is_flat(const at::Tensor& x) { return is_fast(x) && x.is_contiguous(); }

}  // namespace detail

/// The activation of every element, differentiable by autograd: the reference.
[[nodiscard]] inline at::Tensor activation_reference(const at::Tensor& x, Activation f) {
  switch (f) {
    case Activation::kGeluTanh:
      return at::gelu(x, "tanh");
    case Activation::kGelu:
      return at::gelu(x, "none");
    case Activation::kQuickGelu:
      return x.mul(at::sigmoid(x.mul(1.702)));
    case Activation::kRelu:
      return at::relu(x);
    case Activation::kSilu:
      return at::silu(x);
    case Activation::kTanh:
      return at::tanh(x);
  }
  throw ArgumentError("unknown activation");
}

/// The activation of every element of `x`, written to `out`, which may be `x` itself. Records no graph.
inline void activation_out(const at::Tensor& x, Activation f, at::Tensor& out) {
  const auto form = detail::SigmoidForm::of(f);
  if (!form.usable() || !detail::is_flat(x) || !detail::is_flat(out)) {
    out.copy_(activation_reference(x, f));
    return;
  }
  with_type(x, [&]<class T>(T*) {
    const auto* p = x.const_data_ptr<T>();
    auto* q = out.mutable_data_ptr<T>();
    at::parallel_for(0, x.numel(), 32768, [&](std::int64_t begin, std::int64_t end) {
      simd::run<detail::ActivationKernel>(p + begin, q + begin, end - begin, form);
    });
  });
}

[[nodiscard]] inline at::Tensor activation(const at::Tensor& x, Activation f) {
  at::Tensor y = at::empty_like(x);
  activation_out(x, f, y);
  return y;
}

/// Turns dL/dy in `d` into dL/dx, where y is the activation of `x`; in place.
inline void activation_backward_(at::Tensor& d, const at::Tensor& x, Activation f) {
  const auto form = detail::SigmoidForm::of(f);
  if (form.usable() && detail::is_flat(x) && detail::is_flat(d)) {
    with_type(x, [&]<class T>(T*) {
      auto* p = d.mutable_data_ptr<T>();
      const auto* q = x.const_data_ptr<T>();
      at::parallel_for(0, x.numel(), 32768, [&](std::int64_t begin, std::int64_t end) {
        simd::run<detail::ActivationBackwardKernel>(p + begin, q + begin, end - begin, form);
      });
    });
    return;
  }
  switch (f) {
    case Activation::kGeluTanh:
      d.copy_(at::gelu_backward(d, x, "tanh"));
      return;
    case Activation::kGelu:
      d.copy_(at::gelu_backward(d, x, "none"));
      return;
    case Activation::kRelu:
      d.copy_(at::threshold_backward(d, x, 0));
      return;
    case Activation::kSilu:
      d.copy_(at::silu_backward(d, x));
      return;
    case Activation::kTanh:
      d.copy_(at::tanh_backward(d.to(at::kFloat), at::tanh(x.to(at::kFloat))));  // 1 - y^2 cancels
      return;
    case Activation::kQuickGelu: {
      const at::Tensor s = at::sigmoid(x.mul(1.702));
      d.mul_(s.add(s.sub(s.mul(s)).mul(x).mul(1.702)));
      return;
    }
  }
}

}  // namespace ops
}  // namespace offsite
