#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "offsite/data/split_patterns.hpp"

namespace offsite {

/// What becomes of the stretches that a split finds: tokenizer.json's `behavior`.
enum class SplitBehavior : std::uint8_t {
  kIsolated,            ///< every stretch is a piece, match or not
  kRemoved,             ///< matches are left out
  kMergedWithPrevious,  ///< a match ends the piece before it
  kMergedWithNext,      ///< a match begins the piece after it
  kContiguous,          ///< neighbouring matches are one piece
};

/// A step that takes pieces of text apart, or changes how they begin: one of tokenizer.json's `pre_tokenizer`.
struct SplitStep {
  enum class Kind : std::uint8_t {
    kPattern,      ///< at the matches of `pattern`
    kText,         ///< at the places where `text` stands
    kPrefixSpace,  ///< puts a space before a piece that begins with none
    kMetaspace,    ///< writes `text` for spaces and, as `prefix` says, before the piece
  };
  enum class Prefix : std::uint8_t { kNever, kFirst, kAlways };

  Kind kind = Kind::kPattern;
  SplitPattern pattern = SplitPattern::kGpt2;
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;              ///< what lies between matches counts as match, and the other way round
  std::string text = {};            ///< not empty where `kind` needs it
  Prefix prefix = Prefix::kAlways;  ///< kFirst: only a piece at the beginning of the whole text
};

namespace detail {

/// Calls `use(begin, end, is_match)` for the stretches of `text`, one after the other.
template <class Use>
void for_each_stretch(const SplitStep& step, std::string_view text, Use&& use) {
  if (step.kind == SplitStep::Kind::kPattern) {
    for (std::size_t begin = 0; begin < text.size();) {
      const SplitStretch next = next_stretch(step.pattern, text, begin);
      use(begin, next.end, next.is_match != step.invert);
      begin = next.end;
    }
    return;
  }
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t found = text.find(step.text, begin), match = found == text.npos ? text.size() : found;
    if (match > begin) use(begin, match, step.invert);
    if (match == text.size()) break;
    begin = match + step.text.size();
    use(match, begin, !step.invert);
  }
}

/// `text` with `to` wherever `from`, which is not empty, stood.
inline std::string replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  out.reserve(text.size() + text.size() / 4);
  for (;;) {
    const std::size_t found = text.find(from);
    out += text.substr(0, found);
    if (found == text.npos) return out;
    out += to;
    text.remove_prefix(found + from.size());
  }
}

}  // namespace detail

/// Splits text into the words that a tokenizer's model sees one by one: steps that each take apart what the one before
/// them left. Without steps a text is one word.
class TextSplitter {
 public:
  explicit TextSplitter(std::vector<SplitStep> steps = {}) : steps_(std::move(steps)) {}

  [[nodiscard]] const std::vector<SplitStep>& steps() const { return steps_; }

  /// Calls `use(word)` for each word of `text`, in order; words are not empty and live as long as the call.
  /// `at_start` tells whether the whole text begins here.
  template <class Use>
  void for_each_word(std::string_view text, bool at_start, Use&& use) const {
    run(0, text, at_start, use);
  }

 private:
  template <class Use>
  void run(std::size_t step, std::string_view text, bool at_start, Use& use) const {
    if (text.empty()) return;
    if (step == steps_.size()) {
      use(text);
      return;
    }
    switch (steps_[step].kind) {
      case SplitStep::Kind::kPattern:
      case SplitStep::Kind::kText:
        split(step, text, at_start, use);
        return;
      case SplitStep::Kind::kPrefixSpace:
        if (text[0] == ' ') {
          run(step + 1, text, at_start, use);
        } else {
          std::string with_space(1, ' ');
          with_space += text;
          run(step + 1, std::string_view(with_space), at_start, use);
        }
        return;
      case SplitStep::Kind::kMetaspace: {
        const auto& [kind, pattern, behavior, invert, marker, prefix] = steps_[step];
        std::string marked = detail::replaced(text, " ", marker);
        const bool wanted =
            prefix == SplitStep::Prefix::kAlways || (prefix == SplitStep::Prefix::kFirst && at_start);
        if (wanted && !marked.starts_with(marker)) marked.insert(0, marker);
        run(step + 1, std::string_view(marked), at_start, use);
        return;
      }
    }
  }

  template <class Use>
  void split(std::size_t index, std::string_view text, bool at_start, Use& use) const {
    const SplitStep& step = steps_[index];
    const auto piece = [&](std::size_t begin, std::size_t end) {
      run(index + 1, text.substr(begin, end - begin), at_start && begin == 0, use);
    };
    const auto each = [&](auto&& on_stretch) { detail::for_each_stretch(step, text, on_stretch); };
    std::size_t held = 0;  // where the piece begins that is not complete yet
    bool was_match = false;
    switch (step.behavior) {
      case SplitBehavior::kIsolated:
        if (step.kind == SplitStep::Kind::kPattern && step.pattern == SplitPattern::kGpt2 &&
            index + 1 == steps_.size()) {
          for_each_gpt2_word(text, use);  // the common case, without a test for each word
        } else {
          each([&](std::size_t begin, std::size_t end, bool) { piece(begin, end); });
        }
        return;
      case SplitBehavior::kRemoved:
        each([&](std::size_t begin, std::size_t end, bool is_match) {
          if (!is_match) piece(begin, end);
        });
        return;
      case SplitBehavior::kContiguous:
        each([&](std::size_t begin, std::size_t, bool is_match) {
          if (begin != 0 && is_match != was_match) piece(std::exchange(held, begin), begin);
          was_match = is_match;
        });
        break;
      case SplitBehavior::kMergedWithPrevious:
        each([&](std::size_t begin, std::size_t, bool is_match) {
          if (begin != 0 && (!is_match || was_match)) piece(std::exchange(held, begin), begin);
          was_match = is_match;
        });
        break;
      case SplitBehavior::kMergedWithNext:
        // Of several matches in a row only the last joins what follows.
        each([&](std::size_t begin, std::size_t, bool is_match) {
          if (begin != 0 && (is_match || !was_match)) piece(std::exchange(held, begin), begin);
          was_match = is_match;
        });
        break;
    }
    if (held < text.size()) piece(held, text.size());
  }

  std::vector<SplitStep> steps_;
};

}  // namespace offsite
