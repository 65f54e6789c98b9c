#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>

#include "offsite/data/pretokenize.hpp"
#include "offsite/data/unicode.hpp"

namespace offsite {

/// The regular expressions by which published tokenizers split text into words; each is matched by code of its own,
/// in linear time.
enum class SplitPattern : std::uint8_t {
  kGpt2,     ///< GPT-2, OPT, GPT-NeoX, OLMo 1: see gpt2_word_end
  kLlama3,   ///< Llama 3, OLMo 2 (GPT-4's): words take one character before them along; numbers of 3 digits
  kQwen2,    ///< Qwen 2, 2.5 and 3: as kLlama3, but each digit for itself
  kBloom,    ///< BLOOM: runs without white space and punctuation; what lies between them is a word, too
  kNumbers,  ///< runs of \p{N}, and what lies between them
  kNumber,   ///< each \p{N} for itself, and what lies between them
  kDigits,  ///< as kNumbers, for tokenizer.json's Digits, which knows a newer Unicode than its expressions do
  kDigit,   ///< as kNumber, likewise
};

namespace detail {

/// The expressions as tokenizer.json spells them.
inline constexpr std::array<std::pair<std::string_view, SplitPattern>, 6> kPatternTexts{{
    {R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", SplitPattern::kGpt2},
    {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     SplitPattern::kLlama3},
    {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     SplitPattern::kQwen2},
    {" ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+", SplitPattern::kBloom},
    {R"(\p{N}+)", SplitPattern::kNumbers},
    {R"(\p{N})", SplitPattern::kNumber},
}};

/// Bytes of the contraction that `text` begins with, whatever its case, or 0. The long s folds to s, as in the
/// regular expressions' case-insensitive groups.
constexpr std::size_t folded_contraction_bytes(std::string_view text) {
  if (text.size() < 2 || text[0] != '\'') return 0;
  const auto lower = [&](std::size_t i) {
    const char c = i < text.size() ? text[i] : '\0';
    return 'A' <= c && c <= 'Z' ? static_cast<char>(c + 32) : c;
  };
  const char first = lower(1), second = lower(2);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
  if (text.substr(1).starts_with("\xc5\xbf")) return 3;
  const bool long_one =
      (first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l');
  return long_one ? 3 : 0;
}

constexpr bool ends_line(char c) { return c == '\r' || c == '\n'; }

/// Where the run of white space that begins at `begin` is cut: after its last end of line if it has one; else
/// before its last character if a word follows, unless it is the only one; else where it ends.
inline std::size_t end_of_space(std::string_view text, std::size_t begin) {
  std::size_t end = begin, last = begin, after_line = 0;
  while (end < text.size()) {
    const ClassedChar next = classed_char(text, end);
    if (next.char_class != CharClass::kSpace) break;
    if (ends_line(text[end])) after_line = end + 1;
    last = end;
    end += next.bytes;
  }
  if (after_line != 0) return after_line;
  return end < text.size() && last != begin ? last : end;
}

/// Whether BLOOM's expression leaves the character at `at` out of words; sets `bytes` to its length.
inline bool divides_bloom(std::string_view text, std::size_t at, std::size_t& bytes) {
  const CodePoint point = first_code_point(text.substr(at));
  bytes = point.bytes == 0 ? 1 : point.bytes;
  if (point.bytes == 0) return false;
  if (point.value < 0x80 && std::string_view("(|).,!?").find(text[at]) != std::string_view::npos) return true;
  for (const std::uint32_t c : {0x2026u, 0x3002u, 0xff0cu, 0x3001u, 0x0964u, 0x06d4u, 0x060cu})
    if (point.value == c) return true;
  return char_class(point.value) == CharClass::kSpace;
}

/// Whether the character at `at` is in \p{N}, or, if `newer`, numeric to Rust's `char::is_numeric`; sets `bytes` to its
/// length.
inline bool is_numeric(std::string_view text, std::size_t at, bool newer, std::size_t& bytes) {
  const CodePoint point = first_code_point(text.substr(at));
  bytes = point.bytes == 0 ? 1 : point.bytes;
  if (point.bytes == 0) return false;
  return char_class(point.value) == CharClass::kNumber ||
         (newer && ((0x11de0 <= point.value && point.value <= 0x11de9) ||
                    (0x16ff4 <= point.value && point.value <= 0x16ff6)));
}

}  // namespace detail

/// The pattern that tokenizer.json spells `expression`, if it is one of ours.
[[nodiscard]] constexpr std::optional<SplitPattern> pattern_spelled(std::string_view expression) {
  for (const auto& [text, pattern] : detail::kPatternTexts)
    if (text == expression) return pattern;
  return {};
}

/// Where the word that begins at byte `begin` < `text.size()` ends in GPT-4's split, which Llama 3 and Qwen 2 use with
/// up to `digits` digits a word. Every word is a match of the expression at `begin`.
[[nodiscard]] inline std::size_t gpt4_word_end(std::string_view text, std::size_t begin, int digits) {
  if (const std::size_t bytes = detail::folded_contraction_bytes(text.substr(begin))) return begin + bytes;
  const ClassedChar first = classed_char(text, begin);
  std::size_t at = begin + first.bytes;
  if (first.char_class == CharClass::kLetter) return end_of_run(text, at, CharClass::kLetter);
  if (first.char_class == CharClass::kNumber) {
    for (int i = 1; i < digits && at < text.size(); ++i) {
      const ClassedChar next = classed_char(text, at);
      if (next.char_class != CharClass::kNumber) break;
      at += next.bytes;
    }
    return at;
  }
  const ClassedChar next = at < text.size() ? classed_char(text, at) : ClassedChar{CharClass::kSpace, 0};
  if (next.char_class == CharClass::kLetter && !detail::ends_line(text[begin]))
    return end_of_run(text, at + next.bytes, CharClass::kLetter);
  if (first.char_class == CharClass::kOther || (text[begin] == ' ' && next.char_class == CharClass::kOther)) {
    at = end_of_run(text, at, CharClass::kOther);
    while (at < text.size() && detail::ends_line(text[at])) ++at;
    return at;
  }
  return detail::end_of_space(text, begin);
}

/// The stretch of `text` that begins at `begin` in a split by `pattern`: where it ends, and whether it is a match of
/// the expression or what lies between two matches.
struct SplitStretch {
  std::size_t end = 0;
  bool is_match = true;
};

/// The stretch that begins at byte `begin` < `text.size()`, where the one before it ended.
[[nodiscard]] inline SplitStretch next_stretch(SplitPattern pattern, std::string_view text,
                                               std::size_t begin) {
  std::size_t at = begin, bytes = 0;
  switch (pattern) {
    case SplitPattern::kGpt2:
      return {gpt2_word_end(text, begin)};
    case SplitPattern::kLlama3:
      return {gpt4_word_end(text, begin, 3)};
    case SplitPattern::kQwen2:
      return {gpt4_word_end(text, begin, 1)};
    case SplitPattern::kBloom: {
      const auto in_word = [&](std::size_t from) {
        return from < text.size() && !detail::divides_bloom(text, from, bytes);
      };
      const auto begins_word = [&](std::size_t from) {
        return in_word(from) || (text[from] == ' ' && in_word(from + 1));
      };
      if (begins_word(begin)) {
        if (text[at] == ' ') ++at;
        while (in_word(at)) at += bytes;
        return {at};
      }
      while (at < text.size() && !begins_word(at)) {
        (void)detail::divides_bloom(text, at, bytes);
        at += bytes;
      }
      return {at, false};
    }
    default:
      break;
  }
  const bool newer = pattern == SplitPattern::kDigit || pattern == SplitPattern::kDigits;
  const bool numeric = detail::is_numeric(text, begin, newer, bytes);
  at += bytes;
  if (numeric && (pattern == SplitPattern::kDigit || pattern == SplitPattern::kNumber)) return {at};
  while (at < text.size() && detail::is_numeric(text, at, newer, bytes) == numeric) at += bytes;
  return {at, numeric};
}

}  // namespace offsite
