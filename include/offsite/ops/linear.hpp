#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>

#include "offsite/ops/accumulate.hpp"
#include "offsite/ops/bottleneck.hpp"
#include "offsite/ops/low_rank.hpp"
#include "offsite/ops/product.hpp"

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
  at::Tensor bias{};  ///< (out) or undefined
  WeightLayout layout = WeightLayout::kOutIn;
  LowRank low_rank{};            ///< a trained change on top; models need not know of it
  BottleneckLayer bottleneck{};  ///< a trained network behind; likewise

  struct Saved {
    at::Tensor x;  ///< only if the weight trains
    LowRank::Saved low_rank{};
    BottleneckLayer::Saved bottleneck{};
  };

  [[nodiscard]] std::int64_t in_features() const {
    return weight.size(layout == WeightLayout::kInOut ? 0 : 1);
  }
  [[nodiscard]] std::int64_t out_features() const {
    return weight.size(layout == WeightLayout::kInOut ? 1 : 0);
  }

  /// The weight as (out, in), whatever the layout.
  [[nodiscard]] at::Tensor out_in() const { return layout == WeightLayout::kInOut ? weight.t() : weight; }

  /// (N, in) -> (N, out), differentiable by autograd.
  [[nodiscard]] at::Tensor forward(const at::Tensor& x) const {
    Saved unused;
    return forward(x, unused, false);
  }
  /// The same; keeps for `backward` what the trained tensors need if `save`.
  [[nodiscard]] at::Tensor forward(const at::Tensor& x, Saved& saved, bool save) const {
    if (save && weight.grad().defined()) saved.x = x;
    at::Tensor y = ops::product(x, layout == WeightLayout::kInOut ? weight : weight.t(), bias);
    if (low_rank.defined()) y = low_rank.forward(y, x, out_in(), bias, saved.low_rank, save);
    return bottleneck.defined() ? bottleneck.forward(y, saved.bottleneck, save) : y;
  }
  /// dL/dx, undefined unless `need_dx`; adds the gradients of trained tensors.
  [[nodiscard]] at::Tensor backward(const at::Tensor& d_out, const Saved& saved, bool need_dx = true) const {
    return backward(d_out, Saved(saved), need_dx);
  }
  /// The same; lets go of `saved` before it makes dL/dx, which may be as large.
  [[nodiscard]] at::Tensor backward(const at::Tensor& d_out, Saved&& saved, bool need_dx = true) const {
    const at::Tensor dy = bottleneck.defined() ? bottleneck.backward(d_out, saved.bottleneck) : d_out;
    if (bias.defined() && bias.grad().defined()) ops::accumulate_rows(bias.grad(), dy);
    at::Tensor through, d = dy;
    if (low_rank.defined()) d = low_rank.backward(dy, saved.low_rank, need_dx ? &through : nullptr);
    if (weight.grad().defined()) {
      const bool in_out = layout == WeightLayout::kInOut;
      ops::add_gradient(weight.grad(), in_out ? saved.x : d, in_out ? d : saved.x);
    }
    saved = {};
    if (!need_dx) return {};
    const at::Tensor of_weight = layout == WeightLayout::kInOut ? weight.t() : weight;
    return through.defined() ? through.addmm_(d, of_weight) : ops::product(d, of_weight);
  }

  /// Output features [begin, begin + n) as a layer of its own that shares values and gradients.
  /// \throws ArgumentError if a network stands behind the layer: it mixes them all.
  [[nodiscard]] Linear slice(std::int64_t begin, std::int64_t n) const {
    require(!bottleneck.defined(),
            "a part of a layer's outputs was asked for, but a bottleneck behind it needs all");
    Linear part{cut(weight, layout == WeightLayout::kInOut ? 1 : 0, begin, n), cut(bias, 0, begin, n), layout,
                low_rank};
    part.low_rank.b = cut(low_rank.b, 0, begin, n);
    part.low_rank.magnitude = cut(low_rank.magnitude, 0, begin, n);
    return part;
  }

  /// Calls `f(name, tensor&)` for every parameter; for a visitor of layers (see `visit_linears`) `f(name, *this)`.
  template <class F>
  void visit(std::string_view prefix, F&& f) {
    const std::string name(prefix);
    if constexpr (requires { typename std::remove_cvref_t<F>::VisitsLinears; }) {
      f(name, *this);
    } else {
      f(name + ".weight", weight);
      if (bias.defined()) f(name + ".bias", bias);
      if (low_rank.a.defined()) f(name + ".lora_A.weight", low_rank.a);
      if (low_rank.b.defined()) f(name + ".lora_B.weight", low_rank.b);
      if (low_rank.magnitude.defined()) f(name + ".lora_magnitude_vector", low_rank.magnitude);
      if (!bottleneck.defined()) return;
      f(name + ".bottleneck_down.weight", bottleneck.down_weight);
      f(name + ".bottleneck_down.bias", bottleneck.down_bias);
      f(name + ".bottleneck_up.weight", bottleneck.up_weight);
      f(name + ".bottleneck_up.bias", bottleneck.up_bias);
    }
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
