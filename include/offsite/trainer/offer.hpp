#pragma once
#include <string>

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

}  // namespace offsite
