#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rsqrt.h>

#include <string>
#include <string_view>

#include "offsite/ops/norm_rows.hpp"

namespace offsite {

/// Root-mean-square norm over the columns of (N, C) rows (Zhang, Sennrich, arXiv:1910.07467).
struct RmsNorm {
  at::Tensor weight;  ///< (C)
  double eps = 1e-6;
  bool zero_centred = false;  ///< rows are scaled by 1 + weight, as in Gemma

  using Saved = ops::NormSaved;

  /// Differentiable by autograd; computed in float32.
  [[nodiscard]] at::Tensor forward(const at::Tensor& x) const {
    const at::Tensor wide = x.to(at::kFloat);
    const at::Tensor rstd = at::rsqrt(wide.mul(wide).mean(-1, true).add(eps));
    return wide.mul(rstd).mul(scale()).to(x.scalar_type());
  }
  /// The same; keeps for `backward` what it needs if `save`. An `addend` (N, C) is added to `x` in place before.
  [[nodiscard]] at::Tensor forward(const at::Tensor& x, Saved& saved, bool save,
                                   const at::Tensor& addend = {}) const {
    return ops::norm_rows<false>(x, {scale(), {}}, eps, saved, save, addend);
  }
  /// dL/dx, undefined unless `need_dx`, plus `addend` (N, C) if there is one; adds the gradient of the weight if it
  /// trains.
  [[nodiscard]] at::Tensor backward(const at::Tensor& dy, const Saved& saved, bool need_dx = true,
                                    const at::Tensor& addend = {}) const {
    return ops::norm_rows_backward<false>(dy, saved, scale(), weight.grad(), {}, need_dx, addend);
  }

  [[nodiscard]] bool trains() const { return weight.grad().defined(); }
  [[nodiscard]] ops::NormTrained trained() const { return {scale(), {}, weight.grad(), {}}; }
  /// What the forward pass that kept `saved` scaled.
  [[nodiscard]] at::Tensor normalised(const Saved& saved) const {
    Saved unused;
    return ops::norm_rows<false>(saved.x, {at::ones({saved.x.size(1)}, at::kFloat), {}}, eps, unused, false);
  }

  /// Calls `f(name, tensor&)` for the parameter.
  template <class F>
  void visit(std::string_view prefix, F&& f) {
    f(std::string(prefix) + ".weight", weight);
  }

 private:
  [[nodiscard]] at::Tensor scale() const {
    const at::Tensor w = weight.to(at::kFloat).contiguous();
    return zero_centred ? w.add(1) : w;
  }
};

}  // namespace offsite
