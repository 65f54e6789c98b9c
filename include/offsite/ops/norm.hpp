#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/native_layer_norm.h>
#include <ATen/ops/native_layer_norm_backward.h>

#include <string>
#include <string_view>

#include "offsite/ops/accumulate.hpp"
#include "offsite/ops/norm_rows.hpp"

namespace offsite {

/// Layer norm over the columns of (N, C) rows (Ba, Kiros, Hinton, arXiv:1607.06450). Its kernels are for float32 and
/// bfloat16 on the CPU, where they take half the time of LibTorch's operators, which serve everything else.
struct LayerNorm {
  at::Tensor weight, bias;  ///< (C), or undefined: then nothing scales or shifts
  double eps = 1e-5;

  using Saved = ops::NormSaved;

  /// Differentiable by autograd: the reference.
  [[nodiscard]] at::Tensor forward(const at::Tensor& x) const {
    return at::layer_norm(x, x.sizes().slice(1), weight, bias, eps);
  }
  /// The same; keeps for `backward` what it needs if `save`. An `addend` (N, C) is added to `x` in place before.
  [[nodiscard]] at::Tensor forward(const at::Tensor& x, Saved& saved, bool save,
                                   const at::Tensor& addend = {}) const {
    if (has_kernel(x))
      return ops::norm_rows<true>(
          x, {ops::norm_parameter(weight, x.size(1), 1), ops::norm_parameter(bias, x.size(1), 0)}, eps, saved,
          save, addend);
    if (addend.defined()) x.add_(addend);
    auto [y, mean, rstd] = at::native_layer_norm(x, x.sizes().slice(1), weight, bias, eps);
    if (save) saved = {x, mean, rstd};
    return y;
  }
  /// dL/dx, undefined unless `need_dx`, plus `addend` (N, C) if there is one; adds the gradients of trained tensors.
  [[nodiscard]] at::Tensor backward(const at::Tensor& dy, const Saved& saved, bool need_dx = true,
                                    const at::Tensor& addend = {}) const {
    const bool dw = trains(weight), db = trains(bias);
    if (!need_dx && !dw && !db) return {};
    if (has_kernel(saved.x))
      return ops::norm_rows_backward<true>(dy, saved, ops::norm_parameter(weight, dy.size(1), 1),
                                           dw ? weight.grad() : at::Tensor(), db ? bias.grad() : at::Tensor(),
                                           need_dx, addend);
    auto [dx, gw, gb] = at::native_layer_norm_backward(dy, saved.x, dy.sizes().slice(1), saved.mean,
                                                       saved.rstd, weight, bias, {need_dx, dw, db});
    if (dw) ops::accumulate(weight.grad(), gw);
    if (db) ops::accumulate(bias.grad(), gb);
    return need_dx && addend.defined() ? dx.add_(addend) : dx;
  }

  [[nodiscard]] bool trains() const { return trains(weight) || trains(bias); }
  [[nodiscard]] ops::NormTrained trained() const {
    return {weight.defined() ? weight.detach().to(at::kFloat) : at::Tensor(),
            bias.defined() ? bias.detach().to(at::kFloat) : at::Tensor(),
            trains(weight) ? weight.grad() : at::Tensor(), trains(bias) ? bias.grad() : at::Tensor()};
  }
  /// What the forward pass that kept `saved` scaled and shifted.
  [[nodiscard]] at::Tensor normalised(const Saved& saved) const {
    Saved unused;
    return LayerNorm{{}, {}, eps}.forward(saved.x, unused, false);
  }

  /// Calls `f(name, tensor&)` for every parameter.
  template <class F>
  void visit(std::string_view prefix, F&& f) {
    if (weight.defined()) f(std::string(prefix) + ".weight", weight);
    if (bias.defined()) f(std::string(prefix) + ".bias", bias);
  }

 private:
  static bool trains(const at::Tensor& t) { return t.defined() && t.grad().defined(); }
  static bool has_kernel(const at::Tensor& x) { return x.dim() == 2 && ops::detail::is_fast(x); }
};

}  // namespace offsite
