#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "offsite/core/utf8.hpp"
#include "offsite/data/unicode_tables.hpp"

namespace offsite {

/// What the pre-tokenizer's patterns tell apart: \p{L}, \p{N}, \s and all the rest.
enum class CharClass : std::uint8_t { kOther = 0, kLetter = 1, kNumber = 2, kSpace = 3 };

/// A character of a text: its class and the bytes it takes.
struct ClassedChar {
  CharClass char_class = CharClass::kOther;
  std::size_t bytes = 1;
};

namespace detail {

/// The kind (see `KindChange`) of every code point, one byte each. A function of its own, since compilers try
/// to evaluate what a lambda computes at compile time: a million steps here.
inline std::vector<std::uint8_t> spread_kinds() {
  std::vector<std::uint8_t> all(0x110000);
  for (std::size_t i = 0; i < kKindChanges.size(); ++i) {
    const std::size_t end = i + 1 < kKindChanges.size() ? kKindChanges[i + 1].first : all.size();
    for (std::size_t c = kKindChanges[i].first; c < end; ++c) all[c] = kKindChanges[i].kind;
  }
  return all;
}

/// The same, made once: searching the 2,012 changes would cost ten mispredicted branches a character of
/// non-Latin text.
inline const std::vector<std::uint8_t>& kinds_of_code_points() {
  static const std::vector<std::uint8_t> kinds = spread_kinds();
  return kinds;
}

/// The classes of ASCII, written down: taking them from the table at compile time would cost every file that
/// includes this more than the rest of the tokenizer.
inline constexpr std::array<CharClass, 128> kAsciiClasses = [] {
  std::array<CharClass, 128> classes{};
  for (std::size_t c = 0; c < classes.size(); ++c) {
    const auto lower = c | 0x20;
    if ('a' <= lower && lower <= 'z') classes[c] = CharClass::kLetter;
    if ('0' <= c && c <= '9') classes[c] = CharClass::kNumber;
    if (c == ' ' || ('\t' <= c && c <= '\r')) classes[c] = CharClass::kSpace;
  }
  return classes;
}();

}  // namespace detail

/// The class of a code point (at most U+10FFFF), as Hugging Face's tokenizers library sees it.
[[nodiscard]] inline CharClass char_class(std::uint32_t code_point) {
  return static_cast<CharClass>(detail::kinds_of_code_points()[code_point] & 3);
}

/// Whether \w holds for a code point (at most U+10FFFF): alphabetic, mark, decimal number or connector.
[[nodiscard]] inline bool is_word_character(std::uint32_t code_point) {
  return (detail::kinds_of_code_points()[code_point] & 4) != 0;
}

/// The character at byte `at` < `text.size()`. A byte that begins no valid UTF-8 is a character of its own,
/// neither letter, number nor space, so that any bytes can be split and put together again.
[[nodiscard]] inline ClassedChar classed_char(std::string_view text, std::size_t at) {
  const auto byte = static_cast<unsigned char>(text[at]);
  if (byte < 0x80) return {detail::kAsciiClasses[byte], 1};
  const CodePoint point = first_code_point(text.substr(at));
  if (point.bytes == 0) return {};
  return {char_class(point.value), point.bytes};
}

/// Where the run of characters of class `wanted` that begins at byte `at` ends.
[[nodiscard]] inline std::size_t end_of_run(std::string_view text, std::size_t at, CharClass wanted) {
  while (at < text.size()) {
    const ClassedChar next = classed_char(text, at);
    if (next.char_class != wanted) break;
    at += next.bytes;
  }
  return at;
}

/// The code point that ends `text`; its `bytes` are 0 where none does.
[[nodiscard]] inline CodePoint last_code_point(std::string_view text) {
  for (std::size_t bytes = 1; bytes <= 4 && bytes <= text.size(); ++bytes) {
    const CodePoint point = first_code_point(text.substr(text.size() - bytes));
    if (point.bytes != 0) return point.bytes == bytes ? point : CodePoint{};
  }
  return {};
}

}  // namespace offsite
