#pragma once
#include <ATen/core/Tensor.h>

#include <utility>

#include "offsite/ops/activation.hpp"
#include "offsite/ops/linear.hpp"
#include "offsite/ops/remade_input.hpp"

namespace offsite {

/// Feed-forward part of two layers: out(activation(in(x))), (N, C) -> (N, C).
struct Mlp {
  Linear in, out;
  Activation activation = Activation::kGeluTanh;

  struct Saved {
    Linear::Saved in, out;
    at::Tensor u;  ///< before the activation; its result is computed again rather than kept
  };

  /// Differentiable by autograd.
  [[nodiscard]] at::Tensor forward(const at::Tensor& x) const {
    return out.forward(ops::activation_reference(in.forward(x), activation));
  }
  /// The same without a graph; keeps for `backward` what it needs if `save`.
  [[nodiscard]] at::Tensor forward(const at::Tensor& x, Saved& saved, bool save) const {
    at::Tensor u = in.forward(x, saved.in, save);
    if (save) saved.u = u;
    at::Tensor g = save ? ops::activation(u, activation) : u;
    if (!save) ops::activation_out(u, activation, g);
    at::Tensor y = out.forward(g, saved.out, save);
    ops::forget_input(saved.out, g);
    return y;
  }
  /// Keeps what `forward` keeps for `backward`, without a result: half of the products, where nothing changes the layer
  /// `out`.
  void save(const at::Tensor& x, Saved& saved) const {
    if (ops::keeps_more_than_input(out))
      (void)forward(x, saved, true);
    else
      saved.u = in.forward(x, saved.in, true);
  }
  /// dL/dx; adds the gradients of trained tensors and consumes `saved`.
  [[nodiscard]] at::Tensor backward(const at::Tensor& dy, Saved& saved) const {
    ops::remake_input(out, saved.out, [&] { return ops::activation(saved.u, activation); });
    at::Tensor du = out.backward(dy, std::move(saved.out));
    ops::activation_backward_(du, saved.u, activation);
    saved.u.reset();
    return in.backward(du, std::move(saved.in));
  }
};

}  // namespace offsite
