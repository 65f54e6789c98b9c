#pragma once
#include <concepts>
#include <cstdint>
#include <vector>

#include "offsite/core/error.hpp"

namespace offsite {

/// Indices into the middle, 0-based, strictly ascending.
using LayerSelection = std::vector<std::int64_t>;

namespace detail {

// clang-format off: compilers print a requirement's own line, so its remedy stays on it
template <class P>
concept SelectsLayers = requires(const P& policy, std::int64_t num_blocks, std::int64_t keep) {
  { policy.select(num_blocks, keep) } -> std::same_as<LayerSelection>;  // LayerSelection select(std::int64_t num_blocks, std::int64_t keep) const
};
// clang-format on

/// What every drop rule's answer must be, ours or a user's. \throws ArgumentError otherwise.
inline void check_selection(const LayerSelection& kept, std::int64_t num_blocks, std::int64_t keep) {
  require(static_cast<std::int64_t>(kept.size()) == keep,
          "the drop rule kept {} blocks, but {} were asked for", kept.size(), keep);
  std::int64_t last = -1;
  for (const auto i : kept) {
    require(last < i && i < num_blocks,
            "the drop rule kept block {} of a middle of {} after block {}, but indices ascend from 0 to {}",
            i, num_blocks, last, num_blocks - 1);
    last = i;
  }
}

}  // namespace detail

/// Chooses which blocks of the middle the emulator keeps.
///
///   `p.select(num_blocks, keep)`   `keep` strictly ascending indices in [0, num_blocks), for 0 < keep <=
///   num_blocks
template <class P>
concept LayerDrop = std::copyable<P> && detail::SelectsLayers<P>;

}  // namespace offsite
