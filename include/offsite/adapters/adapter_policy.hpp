#pragma once
#include <ATen/core/Tensor.h>

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "offsite/core/split_plan.hpp"
#include "offsite/ops/linear.hpp"

namespace offsite {

/// Where a block that trains stands.
enum class BlockRole : std::uint8_t {
  kBottom,    ///< an adapter block, and not a top one
  kTop,       ///< an adapter block above every emulator block
  kEmulator,  ///< an emulator block
};

namespace detail {

// clang-format off: compilers print a requirement's own line, so its remedy stays on it
template <class P>
concept ChoosesTensors = requires(const P& policy, std::string_view name, const at::Tensor& tensor) {
  {
    policy.trains(name, tensor)
    } -> std::same_as<bool>;  // missing? bool trains(std::string_view, const at::Tensor&) const
};
template <class P>
concept ChoosesPolicies = requires(const P& policy, BlockRole role) {
  {policy.at(role)};                                   // missing? const AnyAdapter& at(BlockRole) const
  { policy.trains_emulator() } -> std::same_as<bool>;  // missing? bool trains_emulator() const
  requires ChoosesTensors<std::remove_cvref_t<decltype(policy.at(role))>>;
};
// clang-format on

}  // namespace detail

/// Chooses what of the blocks trains; all else stays frozen there too.
///
///   `p.trains(name, tensor)`   asked once for each parameter of each adapter block, by its name within the
///   block
///
/// or, if blocks differ by where they stand,
///
///   `p.at(role)`               a policy as above, for blocks of this role
///   `p.trains_emulator()`      whether something trains in emulator blocks too
// clang-format off: compilers print a requirement's own line, so its remedy stays on it
template <class P>
concept AdapterPolicy = std::copyable<P> && (detail::ChoosesTensors<P> || detail::ChoosesPolicies<P>);  // missing? bool trains(std::string_view, const at::Tensor&) const
// clang-format on

/// A parameter that a policy adds to a layer.
struct ModuleParameter {
  std::string suffix;  ///< what stands behind the layer's name, e.g. ".lora_A.weight"
  std::vector<std::int64_t> shape;
};

/// Refinement: the policy adds parameters of its own to linear layers (LoRA and its kin), which then are visited as
/// parameters of the block.
///
///   `p.attach(name, layer)`    asked once for each linear layer of each block, by its full name; true if it added
///                              something, which must not change what the layer computes
///   `p.modules(name, layer)`   the parameters that it would add, a std::vector of ModuleParameter
///   `p.check()`                throws ArgumentError if a setting is out of its range
template <class P>
concept AttachesModules = requires(const P& policy, std::string_view name, Linear& layer) {
  { policy.attach(name, layer) } -> std::same_as<bool>;
  { policy.modules(name, layer) } -> std::same_as<std::vector<ModuleParameter>>;
  policy.check();
};

/// What a policy is called in an offer: its `text()` if it has one, which owner and client must agree in; "own" for a
/// user's policy without.
template <class P>
[[nodiscard]] std::string policy_text(const P& policy) {
  if constexpr (requires { policy.text(); })
    return std::string(policy.text());
  else
    return "own";
}

/// Blocks that train, by their places in some model, ascending.
struct TrainedBlocks {
  std::vector<std::int64_t> places;
  std::vector<BlockRole> roles;  ///< one a place
};

namespace detail {

/// The policy for blocks of one role.
template <class P>
[[nodiscard]] decltype(auto) policy_at(const P& policy, BlockRole role) {
  if constexpr (ChoosesPolicies<P>)
    return policy.at(role);
  else
    return static_cast<const P&>(policy);
}

template <class P>
[[nodiscard]] bool trains_emulator(const P& policy) {
  if constexpr (ChoosesPolicies<P>)
    return policy.trains_emulator();
  else
    return false;
}

/// Whether a parameter is one that a policy added, by its name.
[[nodiscard]] inline bool is_module_name(std::string_view name) {
  for (const std::string_view part : {".lora_A.", ".lora_B.", ".lora_magnitude_vector", ".bottleneck_"})
    if (name.find(part) != name.npos) return true;
  return false;
}

}  // namespace detail

/// The blocks in which `policy` trains something. \param within_full  places in the full model; else in the sub-model
template <AdapterPolicy P>
[[nodiscard]] TrainedBlocks trained_blocks(const P& policy, const SplitPlan& plan, bool within_full) {
  TrainedBlocks blocks;
  const auto kept = plan.kept();
  for (std::size_t i = 0; i < kept.size(); ++i) {
    const bool adapter = std::binary_search(plan.adapters.begin(), plan.adapters.end(), kept[i]);
    if (!adapter && !detail::trains_emulator(policy)) continue;
    const bool top = !plan.emulator.empty() && kept[i] > plan.emulator.back();
    blocks.places.push_back(within_full ? kept[i] : static_cast<std::int64_t>(i));
    blocks.roles.push_back(!adapter ? BlockRole::kEmulator : top ? BlockRole::kTop : BlockRole::kBottom);
  }
  return blocks;
}

}  // namespace offsite
