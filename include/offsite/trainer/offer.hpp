#pragma once
#include <string>
#include <utility>

#include "offsite/adapters/modules.hpp"
#include "offsite/emulator/split_plan.hpp"

namespace offsite {

/// What the owner hands to a client: the blocks of `plan.kept()` and the shared parameters, in the
/// checkpoint's own precision. Trained blocks keep their numbers in the full model.
template <class Model>
struct Offer {
  SplitPlan plan;
  Model model;
  std::string adapter_policy = "whole_blocks";  ///< what trains: a policy's text
};

/// Cuts an offer out of a model, with the modules that the policy adds to what trains. It shares the model's tensors:
/// where they lie in a mapped file, none of them is read. What `Owner::offer` gives, without the owner's float32 values.
/// \throws ArgumentError if the policy does not fit the model.
template <class Access, class Model, AdapterPolicy Adapters>
[[nodiscard]] Offer<Model> cut_offer(const Model& model, SplitPlan plan, const Adapters& adapters) {
  const auto kept = plan.kept();
  Offer<Model> offer{std::move(plan), Access::select(model, kept), policy_text(adapters)};
  attach_modules<Access>(offer.model, kept, trained_blocks(adapters, offer.plan, false), adapters);
  return offer;
}

}  // namespace offsite
