#pragma once
#include <ATen/core/Tensor.h>
#include <c10/core/GradMode.h>

#include <optional>

#include "offsite/ops/linear.hpp"
#include "offsite/ops/product.hpp"

namespace offsite {

/// The end of a language model: final norm, projection to the embedding's width where it differs, logits.
///
/// M = rows, C = hidden width, E = width of the embedding, V = vocabulary. `tied` is the token embedding (V, E), which
/// serves as the head's weight where the head has none of its own.
template <class Norm>
struct LanguageHead {
  std::optional<Norm> norm;
  Linear project;     ///< (M, C) -> (M, E), or without a weight: then E = C
  at::Tensor weight;  ///< (V, E), or undefined: tied

  struct Saved {
    typename Norm::Saved norm;
    Linear::Saved project;
    at::Tensor x;  ///< what the weight multiplies; only if it trains
  };

  [[nodiscard]] const at::Tensor& weight_or(const at::Tensor& tied) const {
    return weight.defined() ? weight : tied;
  }

  /// (M, C) -> (M, V), differentiable by autograd.
  [[nodiscard]] at::Tensor forward(const at::Tensor& h, const at::Tensor& tied) const {
    const at::Tensor n = norm ? norm->forward(h) : h;
    return ops::product(project.weight.defined() ? project.forward(n) : n, weight_or(tied).t());
  }
  /// The same without a graph, keeping what `backward` needs.
  [[nodiscard]] at::Tensor forward(const at::Tensor& h, const at::Tensor& tied, Saved& saved) const {
    c10::NoGradGuard no_grad;
    at::Tensor x = norm ? norm->forward(h, saved.norm, true) : h;
    if (project.weight.defined()) x = project.forward(x, saved.project, true);
    if (weight_or(tied).grad().defined()) saved.x = x;
    return ops::product(x, weight_or(tied).t());
  }
  /// dL/d(logits) (M, V) -> dL/dh (M, C); adds the gradients of trained tensors, `tied` too.
  [[nodiscard]] at::Tensor backward(const at::Tensor& d, const at::Tensor& tied, const Saved& saved) const {
    c10::NoGradGuard no_grad;
    const auto& w = weight_or(tied);
    if (w.grad().defined()) ops::add_gradient(w.grad(), d, saved.x);
    at::Tensor dx = ops::product(d, w);
    if (project.weight.defined()) dx = project.backward(dx, saved.project);
    return norm ? norm->backward(dx, saved.norm) : dx;
  }
};

}  // namespace offsite
