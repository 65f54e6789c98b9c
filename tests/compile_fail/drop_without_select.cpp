// A drop policy that does not choose blocks.
// expect: SelectsLayers
// expect: LayerSelection select\(std::int64_t num_blocks, std::int64_t keep\) const
#include "offsite/emulator/layer_drop.hpp"

struct KeepsFirst {
#ifndef MISTAKE
  [[nodiscard]] offsite::LayerSelection select(std::int64_t, std::int64_t keep) const {
    offsite::LayerSelection kept;
    for (std::int64_t i = 0; i < keep; ++i) kept.push_back(i);
    return kept;
  }
#endif
};

static_assert(offsite::LayerDrop<KeepsFirst>);
