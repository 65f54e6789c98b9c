#pragma once
#include <string>
#include <utility>
#include <variant>

#include "offsite/adapters/any_adapter.hpp"
#include "offsite/adapters/modules.hpp"
#include "offsite/arguments.hpp"
#include "offsite/model/common.hpp"
#include "offsite/trainer/bottleneck_folder.hpp"
#include "offsite/trainer/peft_folder.hpp"

// What trains in blocks, and folders of what was trained.

namespace program {

/// What trains, as the command line says. \param seed  of new modules, unless the policy names one
inline PlacedAdapters adapters_of(const PeftArguments& peft, std::uint64_t seed) {
  auto adapters = PlacedAdapters::parse(peft.policy);
  require(!peft.emulator || !adapters.emulator,
          "--peft-emulator was given, but --peft names the emulator already");
  if (peft.emulator) adapters.emulator = adapters.bottom;
  bool any = false;
  const auto complete = [&](AnyAdapter& adapter) {
    const bool names_seed = peft.policy.find("seed=") != std::string::npos;
    if (auto* bottleneck = std::get_if<Bottleneck>(&adapter.policy); bottleneck != nullptr && !names_seed)
      bottleneck->seed = seed;
    auto* lora = std::get_if<Lora>(&adapter.policy);
    if (lora == nullptr) return;
    any = true;
    if (peft.rank) lora->rank = *peft.rank;
    if (peft.alpha) lora->alpha = *peft.alpha;
    if (peft.dropout) lora->dropout = *peft.dropout;
    if (!peft.targets.empty()) lora->targets = peft.targets;
    lora->rslora = lora->rslora || peft.rslora;
    lora->dora = lora->dora || peft.dora;
    if (!names_seed) lora->seed = seed;
    lora->check();
  };
  complete(adapters.bottom);
  complete(adapters.top);
  if (adapters.emulator) complete(*adapters.emulator);
  const bool asks =
      peft.rank || peft.alpha || peft.dropout || !peft.targets.empty() || peft.rslora || peft.dora;
  require(any || !asks, "settings of LoRA were given, but --peft is {}", peft.policy);
  return adapters;
}

/// The policy of all blocks that train, if it is one and of that kind; else null.
template <class Policy>
const Policy* common_policy(const PlacedAdapters& adapters) {
  const bool same =
      adapters.bottom == adapters.top && (!adapters.emulator || *adapters.emulator == adapters.bottom);
  return same ? std::get_if<Policy>(&adapters.bottom.policy) : nullptr;
}

/// Whether some block gets a bottleneck.
inline bool has_bottleneck(const PlacedAdapters& adapters) {
  const auto is = [](const AnyAdapter& adapter) {
    return std::holds_alternative<Bottleneck>(adapter.policy);
  };
  return is(adapters.bottom) || is(adapters.top) || (adapters.emulator && is(*adapters.emulator));
}

/// Refuses before training what could not be written after it. \throws ArgumentError
inline void check_writable(const PlacedAdapters& adapters) {
  require(
      !has_bottleneck(adapters) || common_policy<Bottleneck>(adapters) != nullptr,
      "--peft is '{}', but what is trained beside a bottleneck could not be written: give all blocks that "
      "train the same bottleneck, or none",
      adapters.text());
}

inline bool holds_bottleneck(const Path& folder) {
  const auto file = folder / "adapter_config.json";
  const auto json = read_json(file);
  return offsite::detail::HostileObject(json, file.string()).text("peft_type") == "BOTTLENECK";
}

/// A model with a folder's modules beside its weights; `peft` may be empty.
template <class Model>
Model load_with_peft(const Path& folder, const Path& peft) {
  Model model = load_model<Model>(folder);
  if (peft.empty()) return model;
  if (holds_bottleneck(peft))
    (void)load_bottleneck(model, peft);
  else
    (void)load_peft(model, peft);
  return model;
}

/// A model with a folder's modules merged into its weights, so that it can be cut like any other; `peft` may be empty.
template <class Model>
Model load_merged(const Path& folder, const Path& peft) {
  require(
      peft.empty() || !holds_bottleneck(peft),
      "--peft-folder is {}, whose bottlenecks cannot be merged into the weights of a model that is to be cut",
      peft.string());
  Model model = load_with_peft<Model>(folder, peft);
  MergeReport report;
  for (auto& block : model.blocks) merge_modules<BlockAccess<Model>>(block, report);
  return model;
}

}  // namespace program
