#pragma once
#include <cmath>
#include <cstdint>

#include "offsite/emulator/layer_drop.hpp"

namespace offsite {

/// Keeps blocks at evenly spaced depths: first and last included, or the middle one if one is kept.
///
/// Xiao, Lin, Han, "Offsite-Tuning: Transfer Learning without Full Model" (arXiv:2302.04870).
/// O(keep) time; allocates the result only.
struct UniformDrop {
  /// \throws ArgumentError unless 0 < keep <= num_blocks.
  [[nodiscard]] LayerSelection select(std::int64_t num_blocks, std::int64_t keep) const {
    require(0 < keep && keep <= num_blocks, "cannot keep {} of {} blocks", keep, num_blocks);
    if (keep == 1) return {num_blocks / 2};

    // In double and rounding halves to even, as the authors' code does: exact integer arithmetic picks
    // another block when i * stride lies near a half, e.g. for 15 of 30.
    const double stride = static_cast<double>(num_blocks - 1) / static_cast<double>(keep - 1);
    LayerSelection kept;
    kept.reserve(static_cast<std::size_t>(keep));
    for (std::int64_t i = 0; i < keep; ++i)
      kept.push_back(static_cast<std::int64_t>(std::nearbyint(static_cast<double>(i) * stride)));
    return kept;
  }
};

static_assert(LayerDrop<UniformDrop>);

}  // namespace offsite
