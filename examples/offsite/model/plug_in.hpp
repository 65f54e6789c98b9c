#pragma once
#include <cstdio>

#include "offsite/aggregation/any_aggregation.hpp"
#include "offsite/model/common.hpp"
#include "offsite/model/peft.hpp"
#include "offsite/model/split.hpp"
#include "offsite/trainer/offer_folder.hpp"
#include "offsite/trainer/owner.hpp"
#include "offsite/trainer/returned_update.hpp"

namespace program {

/// \throws ArgumentError if what the policy trains cannot be written in the form that was asked for.
inline void check_form(const PlugInCommand& command, const PlacedAdapters& adapters) {
  if (command.as == "peft") {
    require(common_policy<Lora>(adapters) != nullptr || common_policy<Bottleneck>(adapters) != nullptr,
            "--as peft writes the modules of one LoRA or bottleneck policy, but the update's is '{}'",
            adapters.text());
    require(command.aggregate != "merged",
            "--aggregate merged ends in weights, so there are no factors for --as peft");
  } else {
    require(!has_bottleneck(adapters),
            "the update's policy is '{}', whose networks cannot be merged into the weights: write them as a "
            "folder by --as peft",
            adapters.text());
  }
}

/// Writes the modules of a whole model as a folder.
template <class Model>
void save_modules(Model& model, const PlacedAdapters& adapters, const PlugInCommand& command,
                  StagedFolder::Existing existing) {
  const auto base = command.model.string();
  if (const auto* lora = common_policy<Lora>(adapters))
    save_peft(model, *lora, base, command.out.out, existing);
  else
    save_bottleneck(model, *common_policy<Bottleneck>(adapters), base, command.out.out, existing);
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
  check_form(command, adapters);
  const bool merged_mean = command.aggregate == "merged";
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
      if (command.as == "merged") return save_model(result.model, command.model, command.out.out, options);
      auto unmerged = owner.plug_in_unmerged();
      save_modules(unmerged.model, adapters, command, options.existing);
    });
  std::printf("%lld tensors changed; rounding lost %.2g %% of the change\n",
              static_cast<long long>(result.tensors_changed), 100 * result.rounding_loss);
  session.say((command.out.dry_run ? "would write " : "wrote ") + command.out.out.string());
  session.results["tensors_changed"] = result.tensors_changed;
  session.results["rounding_loss"] = result.rounding_loss;
  session.results["updates"] = folders.size();
}

}  // namespace program
