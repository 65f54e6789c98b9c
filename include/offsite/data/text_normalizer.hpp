#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "offsite/data/nfc.hpp"
#include "offsite/data/text_splitter.hpp"

namespace offsite {

/// A step that rewrites text before it is split: one of tokenizer.json's `normalizer`.
struct NormalizerStep {
  enum class Kind : std::uint8_t {
    kNfc,      ///< Unicode's normalisation form C
    kPrepend,  ///< puts `to` before a text that is not empty
    kReplace,  ///< writes `to` wherever `from` stands
  };
  Kind kind = Kind::kNfc;
  std::string from = {};  ///< not empty where `kind` is kReplace
  std::string to = {};
};

/// Rewrites text before it is split, step by step; without steps it stays as it is.
class TextNormalizer {
 public:
  explicit TextNormalizer(std::vector<NormalizerStep> steps = {}) : steps_(std::move(steps)) {}

  /// Whether no text is changed.
  [[nodiscard]] bool empty() const { return steps_.empty(); }

  /// What becomes of `text`: a view of itself or of `storage`.
  [[nodiscard]] std::string_view apply(std::string_view text, std::string& storage) const {
    for (const NormalizerStep& step : steps_) {
      switch (step.kind) {
        case NormalizerStep::Kind::kNfc:
          if (is_surely_nfc(text)) continue;
          storage = nfc(text);
          break;
        case NormalizerStep::Kind::kPrepend:
          if (text.empty()) continue;
          storage = step.to + std::string(text);
          break;
        case NormalizerStep::Kind::kReplace:
          if (text.find(step.from) == text.npos) continue;
          storage = detail::replaced(text, step.from, step.to);
          break;
      }
      text = storage;
    }
    return text;
  }

 private:
  std::vector<NormalizerStep> steps_;
};

}  // namespace offsite
