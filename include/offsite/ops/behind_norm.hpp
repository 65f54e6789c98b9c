#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/mv.h>
#include <ATen/ops/zeros.h>

#include "offsite/ops/accumulate.hpp"
#include "offsite/ops/linear.hpp"
#include "offsite/ops/norm_rows.hpp"

namespace offsite {

/// The backward pass of linear layers whose input is what a norm gives, n = x^ g + b, where nothing below the norm needs a
/// gradient.
///
/// The norm's own gradients are sums over the rows of dL/dn, which takes a product as large as the layer's. But with the
/// layer's weight W (in, out), d = dL/dy (N, out), s the sum of d's rows and G = x^^T d, which takes the place of n^T d,
///
///     dL/dW = diag(g) G + b s^T,    dL/dg_i = sum over j of W_ij G_ij,    dL/db = W s,
///
/// so that a layer that trains needs no dL/dn.
template <class Norm>
class BehindNorm {
 public:
  /// \param saved  what the norm's forward pass kept
  BehindNorm(const Norm& norm, const typename Norm::Saved& saved) : norm_(norm), saved_(saved) {}

  /// Adds the gradients of the layer's trained tensors, and the layer's share of the norm's.
  void backward(const Linear& layer, const at::Tensor& d, const Linear::Saved& kept) {
    const at::Tensor& to = layer.weight.grad();
    if (!to.defined() || !ops::detail::is_fast(d) || layer.low_rank.defined() || layer.bottleneck.defined()) {
      (void)norm_.backward(layer.backward(d, kept), saved_, false);
      return;
    }
    if (!rows_.defined()) rows_ = norm_.normalised(saved_);
    const bool in_out = layer.layout == WeightLayout::kInOut;
    const at::Tensor sums = at::zeros({d.size(1)}, at::kFloat), g = at::zeros(to.sizes(), at::kFloat);
    ops::accumulate_rows(sums, d);
    if (layer.bias.defined() && layer.bias.grad().defined()) ops::accumulate(layer.bias.grad(), sums);
    ops::add_gradient(g, in_out ? rows_ : d, in_out ? d : rows_);

    const ops::NormTrained norm = norm_.trained();
    const auto facing = [&](const at::Tensor& t) { return in_out ? t : t.t(); };  // (in, out)
    const at::Tensor weight = facing(layer.weight.detach().to(at::kFloat)), of_rows = facing(g);
    if (norm.d_shift.defined()) ops::accumulate(norm.d_shift, at::mv(weight, sums));
    if (norm.d_scale.defined()) ops::accumulate(norm.d_scale, weight.mul(of_rows).sum(1));
    if (norm.scale.defined()) of_rows.mul_(norm.scale.unsqueeze(1));
    if (norm.shift.defined()) of_rows.addr_(norm.shift, sums);
    ops::accumulate(to, g);
  }

 private:
  const Norm& norm_;
  const typename Norm::Saved& saved_;
  at::Tensor rows_;  // x^ (N, in)
};

}  // namespace offsite
