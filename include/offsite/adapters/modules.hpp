#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/eq.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/where.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "offsite/adapters/adapter_policy.hpp"
#include "offsite/adapters/targets.hpp"
#include "offsite/blocks/block_access.hpp"
#include "offsite/blocks/visit_linears.hpp"

namespace offsite {

namespace detail {

/// \throws ArgumentError if there are no `layers` to add to, nothing was `attached`, or a target names none of them.
template <class Policy>
void check_found(const Policy& policy, const std::vector<std::string>& layers, bool attached) {
  if constexpr (requires { std::variant_size_v<decltype(policy.policy)>; }) {
    std::visit([&](const auto& chosen) { check_found(chosen, layers, attached); }, policy.policy);
  } else if constexpr (AttachesModules<Policy>) {
    require(!layers.empty(),
            "the adapter policy {} adds to linear layers, but these blocks show none: their visit must call "
            "Linear::visit",
            policy_text(policy));
    if constexpr (requires { policy.targets; })
      for (const auto& target : policy.targets)
        require(std::any_of(layers.begin(), layers.end(),
                            [&](const auto& name) { return is_target(name, {target}); }),
                "the target '{}' names no linear layer of the blocks that train, such as {}", target,
                layers.back());
    require(attached,
            "the adapter policy {} finds no layer that it adds to; there are such as {}: name its targets",
            policy_text(policy), layers.back());
  }
}

}  // namespace detail

/// Calls `f(full name, shape)` for every parameter that `attach_modules` would add.
template <class Access, class Model, AdapterPolicy P, class F>
void visit_modules(Model& model, const std::vector<std::int64_t>& numbers, const TrainedBlocks& blocks,
                   const P& policy, F&& f) {
  for (std::size_t i = 0; i < blocks.places.size(); ++i) {
    const auto& here = detail::policy_at(policy, blocks.roles[i]);
    if constexpr (AttachesModules<std::remove_cvref_t<decltype(here)>>) {
      const auto place = blocks.places[i];
      const auto prefix = block_prefix<Access>(numbers.at(static_cast<std::size_t>(place)));
      visit_linears<Access>(Access::block(model, place), [&](std::string_view name, const Linear& layer) {
        const auto full = prefix + std::string(name);
        for (const auto& added : here.modules(full, layer)) f(full + added.suffix, added.shape);
      });
    }
  }
}

/// Adds a policy's modules to the blocks that train; nothing for policies without. Other copies of the model keep theirs.
/// \param numbers  the full model's number of each of the model's blocks
/// \throws ArgumentError if a setting is out of range or a target names no layer of a block.
template <class Access, class Model, AdapterPolicy P>
void attach_modules(Model& model, const std::vector<std::int64_t>& numbers, const TrainedBlocks& blocks,
                    const P& policy) {
  const c10::NoGradGuard no_grad;
  std::array<std::vector<std::string>, 3> layers;  // by role
  std::array<bool, 3> attached{};
  for (std::size_t i = 0; i < blocks.places.size(); ++i) {
    const auto& here = detail::policy_at(policy, blocks.roles[i]);
    if constexpr (AttachesModules<std::remove_cvref_t<decltype(here)>>) {
      here.check();
      const auto place = blocks.places[i];
      const auto prefix = block_prefix<Access>(numbers.at(static_cast<std::size_t>(place)));
      visit_linears<Access>(Access::block(model, place), [&](std::string_view name, Linear& layer) {
        const auto& full =
            layers[static_cast<std::size_t>(blocks.roles[i])].emplace_back(prefix + std::string(name));
        if (here.attach(full, layer)) attached[static_cast<std::size_t>(blocks.roles[i])] = true;
      });
    }
  }
  for (const auto role : {BlockRole::kBottom, BlockRole::kTop, BlockRole::kEmulator})
    if (std::find(blocks.roles.begin(), blocks.roles.end(), role) != blocks.roles.end())
      detail::check_found(detail::policy_at(policy, role), layers[static_cast<std::size_t>(role)],
                          attached[static_cast<std::size_t>(role)]);
}

/// What merging modules did to the weights.
struct MergeReport {
  std::int64_t tensors_changed = 0;
  double change = 0,
         lost = 0;  ///< squared norms: of the change, and of what rounding to the weight's type lost
};

/// Puts the low-rank changes of a block into its weights, in their own type, and takes the factors off. A number that
/// does not change keeps its bits.
template <class Access, class Block>
void merge_modules(Block& block, MergeReport& report) {
  const c10::NoGradGuard no_grad;
  visit_linears<Access>(block, [&](std::string_view, Linear& layer) {
    if (!layer.low_rank.defined()) return;
    const at::Tensor merged = layer.low_rank.merged(layer.out_in());
    const at::Tensor wanted = layer.layout == WeightLayout::kInOut ? merged.t() : merged;
    layer.low_rank = {};
    const at::Tensor old = layer.weight.detach().to(at::kFloat), same = old.eq(wanted);
    if (same.all().item<bool>()) return;
    const at::Tensor rounded = wanted.to(layer.weight.scalar_type());
    const auto square = [](const at::Tensor& t) {
      const auto norm = at::linalg_vector_norm(t, 2).item<double>();
      return norm * norm;
    };
    report.lost += square(rounded.to(at::kFloat).sub(wanted));
    report.change += square(wanted.sub(old));
    layer.weight = at::where(same, layer.weight.detach(), rounded).contiguous();
    ++report.tensors_changed;
  });
}

}  // namespace offsite
