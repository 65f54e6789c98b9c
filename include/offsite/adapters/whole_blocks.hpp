#pragma once
#include <string_view>

#include "offsite/adapters/adapter_policy.hpp"

namespace offsite {

/// Every parameter of the adapter blocks trains, as in the paper (arXiv:2302.04870).
struct WholeBlocks {
  static constexpr std::string_view kName = "whole_blocks";

  [[nodiscard]] bool trains(std::string_view, const at::Tensor&) const { return true; }
  [[nodiscard]] std::string_view text() const { return kName; }

  bool operator==(const WholeBlocks&) const = default;
};

static_assert(AdapterPolicy<WholeBlocks>);

}  // namespace offsite
