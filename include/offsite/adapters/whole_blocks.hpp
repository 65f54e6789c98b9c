#pragma once
#include "offsite/adapters/adapter_policy.hpp"

namespace offsite {

/// Every parameter of the adapter blocks trains, as in the paper (arXiv:2302.04870).
struct WholeBlocks {
  [[nodiscard]] bool trains(std::string_view, const at::Tensor&) const { return true; }
};

static_assert(AdapterPolicy<WholeBlocks>);

}  // namespace offsite
