#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "offsite/adapters/adapter_policy.hpp"
#include "offsite/adapters/targets.hpp"
#include "offsite/core/random.hpp"

namespace offsite {

/// Low-rank changes of frozen linear layers train (Hu et al., LoRA, arXiv:2106.09685), and nothing else.
///
/// A starts uniform in +-1/sqrt(in), as PEFT's Kaiming-uniform does, B at zero: so nothing has changed yet. A is a
/// function of `seed` and the layer's full name, the same on every machine.
struct Lora {
  static constexpr std::string_view kName = "lora";

  std::int64_t rank = 8;  ///< columns of the factors, > 0
  double alpha = 16;      ///< the change is multiplied by alpha / rank, > 0
  double dropout = 0;     ///< of what A is given, in training, in [0, 1)
  std::vector<std::string>
      targets{};            ///< layers whose name is one of these or ends in "." and one; empty = all
  bool rslora = false;      ///< multiply by alpha / sqrt(rank) instead (arXiv:2312.03732)
  bool dora = false;        ///< train the norm of each row of the weight too (DoRA, arXiv:2402.09353)
  std::uint64_t seed = 42;  ///< of A

  /// Offsite-Tuning's settings (arXiv:2302.04870).
  [[nodiscard]] static Lora paper() {
    Lora lora;
    lora.rank = 4;
    lora.alpha = 32;
    lora.dropout = 0.1;
    return lora;
  }

  [[nodiscard]] double scale() const {
    return alpha / (rslora ? std::sqrt(static_cast<double>(rank)) : static_cast<double>(rank));
  }

  /// \throws ArgumentError
  void check() const {
    require(0 < rank && rank <= 65536, "LoRA's rank is {}, but it must be positive and at most 65536", rank);
    require(alpha > 0 && std::isfinite(alpha), "LoRA's alpha is {}, but it must be positive", alpha);
    require(0 <= dropout && dropout < 1, "LoRA's dropout is {}, but it must be at least 0 and below 1",
            dropout);
    detail::check_targets(targets);
  }

  [[nodiscard]] bool trains(std::string_view name, const at::Tensor&) const {
    return detail::is_module_name(name);
  }

  /// What `attach` would add.
  [[nodiscard]] std::vector<ModuleParameter> modules(std::string_view name, const Linear& layer) const {
    if (!targets.empty() && !detail::is_target(name, targets)) return {};
    const auto in = layer.in_features(), out = layer.out_features();
    std::vector<ModuleParameter> added{{".lora_A.weight", {rank, in}}, {".lora_B.weight", {out, rank}}};
    if (dora) added.push_back({".lora_magnitude_vector", {out}});
    return added;
  }

  /// Adds untrained factors to a layer if it is a target. \param name  the layer's full name
  bool attach(std::string_view name, Linear& layer) const {
    if (!targets.empty() && !detail::is_target(name, targets)) return false;
    const auto place = detail::key_of_name(name);
    layer.low_rank = {.a = at::empty({rank, layer.in_features()}, at::kFloat),
                      .b = at::zeros({layer.out_features(), rank}, at::kFloat),
                      .magnitude = {},
                      .scale = scale(),
                      .dropout = {.rate = dropout, .place = place}};
    detail::fill_kaiming_uniform(layer.low_rank.a, derive_key(seed, place));
    if (dora) layer.low_rank.magnitude = layer.low_rank.row_norms(layer.out_in());
    return true;
  }

  /// "lora rank=8 alpha=16 ...": every setting, so that whoever reads it has the same policy.
  [[nodiscard]] std::string text() const {
    return formatted("{} rank={} alpha={} dropout={} targets={}{}{} seed={}", kName, rank, alpha, dropout,
                     detail::targets_text(targets), rslora ? " rslora" : "", dora ? " dora" : "", seed);
  }

  bool operator==(const Lora&) const = default;
};

static_assert(AdapterPolicy<Lora> && AttachesModules<Lora>);

}  // namespace offsite
