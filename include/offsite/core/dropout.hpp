#pragma once
#include <cstdint>

namespace offsite {

/// Dropout rates of one training step inside a block, each in [0, 1), and the key its masks are drawn from.
///
/// A mask value depends on the key, the place in the model, the sample, the position and the column alone, so neither
/// the packing nor the number of threads changes it, and the backward pass draws the same mask again.
struct Dropout {
  double attention = 0;   ///< on attention probabilities
  double residual = 0;    ///< on what attention and feed-forward add to the residual stream
  std::uint64_t key = 0;  ///< derived from seed and step; a block adds its own number

  [[nodiscard]] bool active() const { return attention > 0 || residual > 0; }
};

}  // namespace offsite
