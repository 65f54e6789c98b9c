#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "offsite/ops/accumulate.hpp"

namespace offsite {

/// How a checkpoint lays out the weight of a linear layer.
enum class WeightLayout : std::uint8_t {
  kOutIn,  ///< (out, in), as torch::nn::Linear
  kInOut,  ///< (in, out), as GPT-2's Conv1D
};

/// y = x W + b, with W in the checkpoint's own layout: the one leaf that knows how a weight is stored.
///
/// A tensor trains if and only if its `grad()` is defined; `backward` adds to it. That gradient may be
/// float32 where the values are bfloat16, and a strided slice of a larger one.
struct Linear {
  at::Tensor weight;
  at::Tensor bias;  ///< (out) or undefined
  WeightLayout layout = WeightLayout::kOutIn;

  struct Saved {
    at::Tensor x;  ///< only if the weight trains
  };

  [[nodiscard]] std::int64_t in_features() const {
    return weight.size(layout == WeightLayout::kInOut ? 0 : 1);
  }
  [[nodiscard]] std::int64_t out_features() const {
    return weight.size(layout == WeightLayout::kInOut ? 1 : 0);
  }

  /// (N, in) -> (N, out), differentiable by autograd.
  [[nodiscard]] at::Tensor forward(const at::Tensor& x) const {
    const at::Tensor in_out = layout == WeightLayout::kInOut ? weight : weight.t();
    return bias.defined() ? at::addmm(bias, x, in_out) : at::mm(x, in_out);
  }
  /// The same; keeps for `backward` what the trained tensors need if `save`.
  [[nodiscard]] at::Tensor forward(const at::Tensor& x, Saved& saved, bool save) const {
    if (save && weight.grad().defined()) saved.x = x;
    return forward(x);
  }
  /// dL/dx, undefined unless `need_dx`; adds the gradients of trained tensors.
  [[nodiscard]] at::Tensor backward(const at::Tensor& dy, const Saved& saved, bool need_dx = true) const {
    if (weight.grad().defined()) {
      const bool in_out = layout == WeightLayout::kInOut;
      add_product(weight.grad(), in_out ? saved.x.t() : dy.t(), in_out ? dy : saved.x);
    }
    if (bias.defined() && bias.grad().defined()) ops::accumulate_rows(bias.grad(), dy);
    if (!need_dx) return {};
    return at::mm(dy, layout == WeightLayout::kInOut ? weight.t() : weight);
  }

  /// Output features [begin, begin + n) as a layer of its own that shares values and gradients.
  [[nodiscard]] Linear slice(std::int64_t begin, std::int64_t n) const {
    return {cut(weight, layout == WeightLayout::kInOut ? 1 : 0, begin, n), cut(bias, 0, begin, n), layout};
  }

  /// Calls `f(name, tensor&)` for every parameter.
  template <class F>
  void visit(std::string_view prefix, F&& f) {
    f(std::string(prefix) + ".weight", weight);
    if (bias.defined()) f(std::string(prefix) + ".bias", bias);
  }

  /// gradient += a b, in the gradient's own type.
  static void add_product(at::Tensor gradient, const at::Tensor& a, const at::Tensor& b) {
    if (gradient.scalar_type() == a.scalar_type())
      gradient.addmm_(a, b);
    else
      ops::accumulate(gradient, at::mm(a, b));
  }

 private:
  static at::Tensor cut(const at::Tensor& t, std::int64_t dim, std::int64_t begin, std::int64_t n) {
    if (!t.defined()) return {};
    at::Tensor part = t.detach().narrow(dim, begin, n);
    if (t.grad().defined()) part.mutable_grad() = t.grad().narrow(dim, begin, n);
    return part;
  }
};

}  // namespace offsite
