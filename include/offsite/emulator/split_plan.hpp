#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "offsite/core/split_plan.hpp"
#include "offsite/emulator/layer_drop.hpp"

namespace offsite {

/// How a model is cut. All counts are in blocks.
struct SplitOptions {
  std::int64_t bottom_blocks = 2;            ///< trained blocks next to the embedding, >= 0
  std::int64_t top_blocks = 2;               ///< trained blocks next to the head, >= 0
  std::int64_t emulator_blocks = 8;          ///< blocks of the middle that a client sees, > 0
  std::vector<std::int64_t> adapter_blocks{};  ///< if not empty: these blocks train instead of bottom and top
};

namespace detail {

/// The adapter blocks that the options name, checked against the depth.
inline std::vector<std::int64_t> adapter_blocks(std::int64_t depth, const SplitOptions& options) {
  require(depth > 0, "the model has {} blocks, but there must be one to train", depth);
  if (!options.adapter_blocks.empty()) {
    auto chosen = options.adapter_blocks;
    std::sort(chosen.begin(), chosen.end());
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      require(0 <= chosen[i] && chosen[i] < depth,
              "adapter_blocks names block {}, but the model's {} blocks are 0 to {}", chosen[i], depth,
              depth - 1);
      require(i == 0 || chosen[i - 1] != chosen[i], "adapter_blocks names block {} twice", chosen[i]);
    }
    return chosen;
  }
  const auto bottom = options.bottom_blocks, top = options.top_blocks;
  require(bottom >= 0 && top >= 0, "bottom_blocks is {} and top_blocks is {}, but neither can be negative",
          bottom, top);
  require(bottom > 0 || top > 0, "bottom_blocks and top_blocks are both 0, but something must train");
  require(bottom <= depth && top <= depth - bottom,
          "bottom_blocks is {} and top_blocks is {}, but the model has {} blocks", bottom, top, depth);
  std::vector<std::int64_t> chosen;
  for (std::int64_t i = 0; i < bottom; ++i) chosen.push_back(i);
  for (std::int64_t i = depth - top; i < depth; ++i) chosen.push_back(i);
  return chosen;
}

/// The blocks that are not adapters, in order.
inline std::vector<std::int64_t> middle_blocks(std::int64_t depth,
                                               const std::vector<std::int64_t>& adapters) {
  std::vector<std::int64_t> middle;
  for (std::int64_t i = 0; i < depth; ++i)
    if (!std::binary_search(adapters.begin(), adapters.end(), i)) middle.push_back(i);
  return middle;
}

inline void check_emulator(std::int64_t depth, const SplitOptions& options, std::size_t adapters,
                           std::size_t middle) {
  const auto keep = options.emulator_blocks, left = static_cast<std::int64_t>(middle);
  if (options.adapter_blocks.empty())
    require(0 < keep && keep <= left,
            "emulator_blocks is {}, but {} blocks minus {} bottom and {} top leave {}", keep, depth,
            options.bottom_blocks, options.top_blocks, left);
  else
    require(0 < keep && keep <= left, "emulator_blocks is {}, but {} blocks minus {} adapter blocks leave {}",
            keep, depth, adapters, left);
}

}  // namespace detail

/// Cuts `depth` blocks as `options` say, the emulator's blocks chosen by `drop` (Xiao et al., section 3.2).
/// \throws ArgumentError if the options do not fit the depth, or the drop rule breaks its contract.
template <LayerDrop Drop>
[[nodiscard]] SplitPlan plan_split(std::int64_t depth, const SplitOptions& options, const Drop& drop) {
  SplitPlan plan{depth, detail::adapter_blocks(depth, options), {}};
  const auto middle = detail::middle_blocks(depth, plan.adapters);
  detail::check_emulator(depth, options, plan.adapters.size(), middle.size());
  const auto size = static_cast<std::int64_t>(middle.size());
  const LayerSelection kept = drop.select(size, options.emulator_blocks);
  detail::check_selection(kept, size, options.emulator_blocks);
  for (const auto i : kept) plan.emulator.push_back(middle[static_cast<std::size_t>(i)]);
  return plan;
}

}  // namespace offsite
