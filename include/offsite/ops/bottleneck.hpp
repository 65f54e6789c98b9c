#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/threshold_backward.h>

#include "offsite/ops/accumulate.hpp"
#include "offsite/ops/low_rank.hpp"

namespace offsite {

/// A small trained network behind a layer: y += W_up drop(relu(W_down y + b_down)) + b_up (Houlsby et al.,
/// arXiv:1902.00751).
struct BottleneckLayer {
  at::Tensor down_weight;  ///< (width, out); undefined = there is no such network
  at::Tensor down_bias;    ///< (width)
  at::Tensor up_weight;    ///< (out, width)
  at::Tensor up_bias;      ///< (out)
  ModuleDropout dropout{};

  struct Saved {
    at::Tensor y, hidden;  // what it is given, and what `up_weight` is
    at::Tensor active;     // after relu, before dropout
    ModuleDropout::Masks masks;
  };

  [[nodiscard]] bool defined() const { return down_weight.defined(); }

  /// (N, out) -> (N, out), differentiable by autograd.
  [[nodiscard]] at::Tensor forward(const at::Tensor& y, Saved& saved, bool save) const {
    const at::Tensor active = at::relu(at::addmm(down_bias, y, down_weight.t()));
    saved.masks = dropout.masks(y);
    const at::Tensor hidden = ModuleDropout::apply(active, saved.masks);
    if (save) {
      saved.y = y;
      saved.active = active;
      saved.hidden = hidden;
    }
    return y.add(at::addmm(up_bias, hidden, up_weight.t()));
  }

  /// dL/dy; adds the gradients of trained tensors.
  [[nodiscard]] at::Tensor backward(const at::Tensor& d, const Saved& saved) const {
    if (up_weight.grad().defined()) ops::add_gradient(up_weight.grad(), d, saved.hidden);
    if (up_bias.grad().defined()) ops::accumulate_rows(up_bias.grad(), d);
    const at::Tensor dh =
        at::threshold_backward(ModuleDropout::apply(at::mm(d, up_weight), saved.masks), saved.active, 0);
    if (down_weight.grad().defined()) ops::add_gradient(down_weight.grad(), dh, saved.y);
    if (down_bias.grad().defined()) ops::accumulate_rows(down_bias.grad(), dh);
    return at::addmm(d, dh, down_weight);
  }
};

}  // namespace offsite
