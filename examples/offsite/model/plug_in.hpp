#pragma once
#include <cstdio>

#include "offsite/aggregation/any_aggregation.hpp"
#include "offsite/model/common.hpp"
#include "offsite/model/split.hpp"
#include "offsite/trainer/offer_folder.hpp"
#include "offsite/trainer/owner.hpp"
#include "offsite/trainer/peft_folder.hpp"
#include "offsite/trainer/returned_update.hpp"

namespace program {

/// The LoRA settings that all blocks which train have in common: what a PEFT folder can hold.
inline Lora common_lora(const PlacedAdapters& adapters) {
  const auto* lora = adapters.bottom.lora();
  const bool same = lora != nullptr && adapters.bottom == adapters.top &&
                    (!adapters.emulator || adapters.emulator == adapters.bottom);
  require(same, "--as peft writes the factors of one LoRA policy, but the update's is '{}'", adapters.text());
  return *lora;
}

/// Aggregates the updates and writes the model with the trained adapters around its original middle.
template <class Model>
void run_plug_in(const PlugInCommand& command, Session& session) {
  Model model = load_model<Model>(command.model);
  std::vector<UpdateFolder> folders;
  for (const auto& path : command.updates) {
    folders.emplace_back(path);
    if (folders.size() == 1)
      check_update_fits<Model>(command.model, folders.front().split());
    else
      folders.back().check_made_for(folders.front().split());
  }
  const auto& split = folders.front().split();
  const auto adapters =
      offsite::detail::offered_policy(split.adapter_policy, (folders.front().path() / "split.json").string());
  std::optional<Lora> lora;
  if (command.as == "peft") lora = common_lora(adapters);
  const bool merged_mean = command.aggregate == "merged";
  require(!merged_mean || !lora, "--aggregate merged ends in weights, so there are no factors for --as peft");
  Owner<Model, UniformDrop, AnyAggregation, PlacedAdapters> owner(
      std::move(model), split.plan, AnyAggregation::parse(merged_mean ? "fedavg" : command.aggregate),
      adapters);
  check_modules_fit(split, owner.layout(), owner.global());
  std::vector<ClientUpdate> updates;
  for (const auto& folder : folders) updates.push_back(client_update(folder, owner.layout()));
  if (!merged_mean) owner.aggregate(updates);
  auto result = merged_mean ? owner.plug_in_merged_mean(updates) : owner.plug_in();

  SaveModelOptions options;
  options.dtype = file_dtype(session.common().dtype);
  session.computes_in(session.common().dtype == "auto" ? "checkpoint" : session.common().dtype);
  if (command.out.force) options.existing = StagedFolder::kReplace;
  if (!command.out.dry_run)
    writing([&] {
      if (!lora) return save_model(result.model, command.model, command.out.out, options);
      auto unmerged = owner.plug_in_unmerged();
      save_peft(unmerged.model, *lora, command.model.string(), command.out.out, options.existing);
    });
  std::printf("%lld tensors changed; rounding lost %.2g %% of the change\n",
              static_cast<long long>(result.tensors_changed), 100 * result.rounding_loss);
  session.say((command.out.dry_run ? "would write " : "wrote ") + command.out.out.string());
  session.results["tensors_changed"] = result.tensors_changed;
  session.results["rounding_loss"] = result.rounding_loss;
  session.results["updates"] = folders.size();
}

}  // namespace program
