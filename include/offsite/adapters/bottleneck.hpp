#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "offsite/adapters/adapter_policy.hpp"
#include "offsite/adapters/targets.hpp"
#include "offsite/core/random.hpp"

namespace offsite {

/// Small networks train, one behind attention's output and one behind the feed-forward part's, before each is added to
/// the residual stream (Houlsby et al., arXiv:1902.00751), and nothing else.
///
/// y += W_up drop(relu(W_down y + b_down)) + b_up. W_down starts as LoRA's A does, the rest at zero, so nothing has
/// changed yet. It cannot be merged into the weights: a plugged-in model keeps the networks.
struct Bottleneck {
  static constexpr std::string_view kName = "bottleneck";

  std::int64_t width = 64;             ///< of the hidden layer, > 0
  double dropout = 0;                  ///< of the hidden layer, in training, in [0, 1)
  std::vector<std::string> targets{};  ///< layers to stand behind, as for LoRA; empty = where attention and
                                       ///< feed-forward end in the models of this library
  std::uint64_t seed = 42;             ///< of W_down

  /// Offsite-Tuning's settings (arXiv:2302.04870).
  [[nodiscard]] static Bottleneck paper() {
    Bottleneck bottleneck;
    bottleneck.dropout = 0.1;
    return bottleneck;
  }

  /// \throws ArgumentError
  void check() const {
    require(0 < width && width <= 65536,
            "the bottleneck's width is {}, but it must be positive and at most 65536", width);
    require(0 <= dropout && dropout < 1,
            "the bottleneck's dropout is {}, but it must be at least 0 and below 1", dropout);
    detail::check_targets(targets);
  }

  [[nodiscard]] bool trains(std::string_view name, const at::Tensor&) const {
    return detail::is_module_name(name);
  }

  /// What `attach` would add.
  [[nodiscard]] std::vector<ModuleParameter> modules(std::string_view name, const Linear& layer) const {
    if (!detail::is_target(name, places())) return {};
    const auto out = layer.out_features();
    return {{".bottleneck_down.weight", {width, out}},
            {".bottleneck_down.bias", {width}},
            {".bottleneck_up.weight", {out, width}},
            {".bottleneck_up.bias", {out}}};
  }

  /// Adds an untrained network behind a layer if it is a target. \param name  the layer's full name
  bool attach(std::string_view name, Linear& layer) const {
    if (!detail::is_target(name, places())) return false;
    const auto out = layer.out_features();
    const auto place = detail::key_of_name(name);
    layer.bottleneck = {.down_weight = at::empty({width, out}, at::kFloat),
                        .down_bias = at::zeros({width}, at::kFloat),
                        .up_weight = at::zeros({out, width}, at::kFloat),
                        .up_bias = at::zeros({out}, at::kFloat),
                        .dropout = {.rate = dropout, .place = place}};
    detail::fill_kaiming_uniform(layer.bottleneck.down_weight, derive_key(seed, place));
    return true;
  }

  /// "bottleneck width=64 ...": every setting.
  [[nodiscard]] std::string text() const {
    return formatted("{} width={} dropout={} targets={} seed={}", kName, width, dropout,
                     targets.empty() ? "outputs" : detail::targets_text(targets), seed);
  }

  bool operator==(const Bottleneck&) const = default;

 private:
  [[nodiscard]] const std::vector<std::string>& places() const {
    static const std::vector<std::string> kOutputs{"c_proj",    "out_proj", "fc2",          "o_proj",
                                                   "down_proj", "dense",    "dense_4h_to_h"};
    return targets.empty() ? kOutputs : targets;
  }
};

static_assert(AdapterPolicy<Bottleneck> && AttachesModules<Bottleneck>);

}  // namespace offsite
