#pragma once
#include <cstdint>
#include <vector>

#include "offsite/emulator/layer_drop.hpp"

namespace offsite {

/// Keeps the blocks that it is told to: for selections computed elsewhere, or known to be good.
struct ExplicitDrop {
  LayerSelection kept;  ///< indices into the middle, strictly ascending

  /// \throws ArgumentError unless `kept` holds `keep` strictly ascending indices below `num_blocks`.
  [[nodiscard]] LayerSelection select(std::int64_t num_blocks, std::int64_t keep) const {
    detail::check_selection(kept, num_blocks, keep);
    return kept;
  }
};

static_assert(LayerDrop<ExplicitDrop>);

}  // namespace offsite
