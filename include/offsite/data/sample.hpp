#pragma once
#include <cstdint>
#include <vector>

namespace offsite {

/// One sequence of token ids, of which all from `scored_from` on are scored: 0 < scored_from < tokens.size().
///
/// It occupies tokens.size() - 1 packed rows, since the last token predicts nothing.
struct Sample {
  std::vector<std::int32_t> tokens;
  std::int64_t scored_from = 1;  ///< first scored token; the row before it predicts it
  std::int64_t number = 0;       ///< row of the file it came from (of `text`: its window), from 0

  /// Packed rows it occupies.
  [[nodiscard]] std::int64_t rows() const { return static_cast<std::int64_t>(tokens.size()) - 1; }
  /// Tokens whose prediction is scored.
  [[nodiscard]] std::int64_t scored() const { return static_cast<std::int64_t>(tokens.size()) - scored_from; }

  friend bool operator==(const Sample&, const Sample&) = default;
};

}  // namespace offsite
