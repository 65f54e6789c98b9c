#pragma once
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <cstdint>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/core/tensor_view.hpp"
#include "offsite/ops/language_head.hpp"
#include "offsite/ops/linear.hpp"
#include "offsite/ops/norm.hpp"

namespace offsite {

/// What language models of a token embedding, blocks and a head have in common: a base of plain structs.
///
/// V = vocabulary, C = hidden width. A model may hold some of the full model's blocks only; its weights stay in the
/// checkpoint's layout and type.
template <class Config, class Block, class Norm = LayerNorm>
struct TransformerLm {
  using SavedHead = typename LanguageHead<Norm>::Saved;

  Config config;
  at::Tensor wte;  ///< (V, C) token embedding
  LanguageHead<Norm> head;
  std::vector<Block> blocks;

  /// (M, C) -> (M, V), differentiable by autograd.
  [[nodiscard]] at::Tensor logits(const at::Tensor& h) const { return head.forward(h, wte); }
  /// The same without a graph, keeping what `logits_backward` needs.
  [[nodiscard]] at::Tensor logits(const at::Tensor& h, SavedHead& saved) const {
    return head.forward(h, wte, saved);
  }
  /// dL/d(logits) (M, V) -> dL/dh (M, C); adds the gradients of head and final norm where they train.
  [[nodiscard]] at::Tensor logits_backward(const at::Tensor& d, const SavedHead& saved) const {
    return head.backward(d, wte, saved);
  }
};

namespace detail {

/// Takes a model's parameters from `source(full_name, shape)`, checking each shape.
template <class Source>
class ParameterSource {
 public:
  explicit ParameterSource(Source& source) : source_(source) {}

  /// \throws ProtocolError for a tensor of another shape.
  [[nodiscard]] at::Tensor take(std::string_view name, at::IntArrayRef shape) const {
    at::Tensor t = source_(name, shape);
    require<ProtocolError>(t.sizes() == shape, "{} has shape {}, but the configuration asks for {}", name,
                           shape_text(t.sizes()), shape_text(shape));
    return t;
  }
  [[nodiscard]] LayerNorm norm(const std::string& name, std::int64_t width, double eps) const {
    LayerNorm
        norm;  // a member at a time: g++ 12 destroys twice what stands in braces before something that throws
    norm.weight = take(name + ".weight", {width});
    norm.bias = take(name + ".bias", {width});
    norm.eps = eps;
    return norm;
  }
  [[nodiscard]] Linear linear(const std::string& name, std::int64_t in, std::int64_t out, bool bias = true,
                              WeightLayout layout = WeightLayout::kOutIn) const {
    const bool in_out = layout == WeightLayout::kInOut;
    Linear linear;
    linear.weight = take(name + ".weight", {in_out ? in : out, in_out ? out : in});
    if (bias) linear.bias = take(name + ".bias", {out});
    linear.layout = layout;
    return linear;
  }

 private:
  Source& source_;
};

}  // namespace detail

/// A model of all its configuration's blocks; `source(full_name, shape)` gives each parameter once.
template <class Model, class Config, class Source>
[[nodiscard]] Model build_model(const Config& config, Source&& source) {
  std::vector<std::int64_t> all(static_cast<std::size_t>(config.num_blocks()));
  std::iota(all.begin(), all.end(), 0);
  return Model::build(config, all, source);
}

/// \throws ArgumentError unless the numbers are of blocks of the full model.
inline void check_block_numbers(std::span<const std::int64_t> numbers, std::int64_t depth) {
  for (const auto i : numbers)
    require(0 <= i && i < depth, "block {} was asked for, but the model has {} blocks", i, depth);
}

/// Float32 weights as models start with: normal with the deviation that the configuration's
/// `initial_deviation(name)` gives, biases 0, norms 1 or what its `initial_norm()` gives. The same bits for the same seed
/// on processors of one kind.
template <class Model, class Config>
[[nodiscard]] Model random_model(const Config& config, std::uint64_t seed) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  return build_model<Model>(config, [&](std::string_view name, at::IntArrayRef shape) {
    if (name.ends_with(".bias")) return at::zeros(shape, at::kFloat);
    if constexpr (requires { config.initial_norm(); })
      if (shape.size() == 1) return at::full(shape, config.initial_norm(), at::kFloat);
    if (shape.size() == 1) return at::ones(shape, at::kFloat);
    return at::empty(shape, at::kFloat).normal_(0, config.initial_deviation(name), generator);
  });
}

}  // namespace offsite
