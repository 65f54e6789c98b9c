#pragma once
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>

#include <cstdint>
#include <utility>

#include "offsite/core/error.hpp"
#include "offsite/core/tensor_view.hpp"
#include "offsite/ops/accumulate.hpp"
#include "offsite/ops/activation.hpp"
#include "offsite/ops/linear.hpp"
#include "offsite/ops/remade_input.hpp"
#include "offsite/ops/simd.hpp"

namespace offsite {
namespace ops {
namespace detail {

struct GatedActivationKernel {  // y = activation(g) u; y may be g or u
  static constexpr bool kUsesBFloat16 = true;

  template <simd::Isa isa, class T>
  [[gnu::always_inline]] static void run(const T* g, const T* u, T* y, std::int64_t n,
                                         const SigmoidForm& form) {
    const SigmoidLanes f(form);
    std::int64_t i = 0;
    for (; i + simd::kLanes <= n; i += simd::kLanes)
      simd::store<isa>(y + i,
                       SigmoidPoint::at<isa>(simd::load<isa>(g + i), f).value() * simd::load<isa>(u + i));
    if (const auto rest = n - i; rest > 0)
      simd::store_some(
          y + i,
          SigmoidPoint::at<isa>(simd::load_some(g + i, rest), f).value() * simd::load_some(u + i, rest),
          rest);
  }
};

struct GatedActivationBackwardKernel {  // g and u become their gradients, given that of y
  static constexpr bool kUsesBFloat16 = true;

  template <simd::Isa isa>
  [[gnu::always_inline]] static void turn(simd::Floats& g, simd::Floats& u, const simd::Floats& d,
                                          const SigmoidLanes& f) {
    const auto point = SigmoidPoint::at<isa>(g, f);
    g = d * u * point.slope(f);
    u = d * point.value();
  }
  template <simd::Isa isa, class T>
  [[gnu::always_inline]] static void run(const T* d, T* g, T* u, std::int64_t n, const SigmoidForm& form) {
    const SigmoidLanes f(form);
    std::int64_t i = 0;
    for (; i + simd::kLanes <= n; i += simd::kLanes) {
      simd::Floats x = simd::load<isa>(g + i), y = simd::load<isa>(u + i);
      turn<isa>(x, y, simd::load<isa>(d + i), f);
      simd::store<isa>(g + i, x);
      simd::store<isa>(u + i, y);
    }
    if (const auto rest = n - i; rest > 0) {
      simd::Floats x = simd::load_some(g + i, rest), y = simd::load_some(u + i, rest);
      turn<isa>(x, y, simd::load_some(d + i, rest), f);
      simd::store_some(g + i, x, rest);
      simd::store_some(u + i, y, rest);
    }
  }
};

}  // namespace detail

/// activation(g) u, element by element, into `out`, which may be one of them (Shazeer, arXiv:2002.05202: SwiGLU for
/// SiLU, GeGLU for GELU). Records no graph.
inline void gated_activation_out(const at::Tensor& g, const at::Tensor& u, Activation f,
                                 const at::Tensor& out) {
  require(g.sizes() == u.sizes() && g.scalar_type() == u.scalar_type(),
          "a gate is {} of type {}, but its values {} {}", shape_text(g.sizes()), g.dtype().name(),
          shape_text(u.sizes()), u.dtype().name());
  const auto form = detail::SigmoidForm::of(f);
  if (!form.usable() || !detail::is_flat(g) || !detail::is_flat(u) || !detail::is_flat(out)) {
    out.copy_(activation_reference(g, f).mul(u));
    return;
  }
  with_type(g, [&]<class T>(T*) {
    const auto *p = g.const_data_ptr<T>(), *q = u.const_data_ptr<T>();
    auto* r = out.mutable_data_ptr<T>();
    at::parallel_for(0, g.numel(), 32768, [&](std::int64_t begin, std::int64_t end) {
      simd::run<detail::GatedActivationKernel>(p + begin, q + begin, r + begin, end - begin, form);
    });
  });
}

/// Turns `g` and `u` in place into the gradients of both, given dL/d(activation(g) u) in `d`.
inline void gated_activation_backward_(const at::Tensor& d, at::Tensor& g, at::Tensor& u, Activation f) {
  const auto form = detail::SigmoidForm::of(f);
  if (!form.usable() || !detail::is_flat(d) || !detail::is_flat(g) || !detail::is_flat(u)) {
    at::Tensor dg = d.mul(u);
    u = d.mul(activation_reference(g, f));
    activation_backward_(dg, g, f);
    g = dg;
    return;
  }
  with_type(g, [&]<class T>(T*) {
    const auto* p = d.const_data_ptr<T>();
    auto *q = g.mutable_data_ptr<T>(), *r = u.mutable_data_ptr<T>();
    at::parallel_for(0, g.numel(), 32768, [&](std::int64_t begin, std::int64_t end) {
      simd::run<detail::GatedActivationBackwardKernel>(p + begin, q + begin, r + begin, end - begin, form);
    });
  });
}

}  // namespace ops

/// Feed-forward part with a gate: down(activation(gate(x)) up(x)), (N, C) -> (N, C).
struct GatedMlp {
  Linear gate, up, down;
  Activation activation = Activation::kSilu;

  struct Saved {
    Linear::Saved gate, up, down;
    at::Tensor g, u;  ///< results of gate and up; what they make is computed again rather than kept
  };

  /// Differentiable by autograd.
  [[nodiscard]] at::Tensor forward(const at::Tensor& x) const {
    return down.forward(ops::activation_reference(gate.forward(x), activation).mul(up.forward(x)));
  }
  /// The same without a graph; keeps for `backward` what it needs if `save`.
  [[nodiscard]] at::Tensor forward(const at::Tensor& x, Saved& saved, bool save) const {
    const at::Tensor g = gate.forward(x, saved.gate, save), u = up.forward(x, saved.up, save);
    const at::Tensor a = save ? at::empty_like(g) : g;
    ops::gated_activation_out(g, u, activation, a);
    if (save) {
      saved.g = g;
      saved.u = u;
    }
    at::Tensor y = down.forward(a, saved.down, save);
    ops::forget_input(saved.down, a);
    return y;
  }
  /// Keeps what `forward` keeps for `backward`, without a result: two of three products, where nothing changes the layer
  /// `down`.
  void save(const at::Tensor& x, Saved& saved) const {
    if (ops::keeps_more_than_input(down)) {
      (void)forward(x, saved, true);
      return;
    }
    saved.g = gate.forward(x, saved.gate, true);
    saved.u = up.forward(x, saved.up, true);
  }
  /// dL/dx; adds the gradients of trained tensors and consumes `saved`.
  [[nodiscard]] at::Tensor backward(const at::Tensor& dy, Saved& saved) const {
    ops::remake_input(down, saved.down, [&] {
      at::Tensor a = at::empty_like(saved.g);
      ops::gated_activation_out(saved.g, saved.u, activation, a);
      return a;
    });
    const at::Tensor da = down.backward(dy, std::move(saved.down));
    ops::gated_activation_backward_(da, saved.g, saved.u, activation);
    at::Tensor dx = gate.backward(saved.g, saved.gate);
    saved.g.reset();
    ops::accumulate(dx, up.backward(saved.u, saved.up));
    saved.u.reset();
    return dx;
  }
};

}  // namespace offsite
