#pragma once
#include <cstddef>
#include <string_view>

#include "offsite/data/unicode.hpp"

namespace offsite {

namespace detail {

/// Bytes of the contraction that `text` begins with ('s 't 'm 'd 're 've 'll), or 0.
constexpr std::size_t contraction_bytes(std::string_view text) {
  if (text.size() < 2 || text[0] != '\'') return 0;
  if (text[1] == 's' || text[1] == 't' || text[1] == 'm' || text[1] == 'd') return 2;
  const std::string_view two = text.substr(1, 2);
  return two == "re" || two == "ve" || two == "ll" ? 3 : 0;
}

}  // namespace detail

/// Where the word that begins at byte `begin` < `text.size()` ends in GPT-2's split of `text`:
/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`.
///
/// Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), encoder.py. Every word is a
/// valid match of the expression at `begin`, so the words of a text are found one after the other, in linear
/// time altogether.
[[nodiscard]] inline std::size_t gpt2_word_end(std::string_view text, std::size_t begin) {
  if (const std::size_t bytes = detail::contraction_bytes(text.substr(begin))) return begin + bytes;
  const ClassedChar first = classed_char(text, begin);
  if (first.char_class != CharClass::kSpace) return end_of_run(text, begin + first.bytes, first.char_class);

  if (text[begin] == ' ' && begin + 1 < text.size()) {
    const ClassedChar next = classed_char(text, begin + 1);
    if (next.char_class != CharClass::kSpace)
      return end_of_run(text, begin + 1 + next.bytes, next.char_class);
  }

  // White space leaves its last character to the word that follows, unless the text ends or it is the only
  // one.
  std::size_t last = begin;
  std::size_t end = begin + first.bytes;
  while (end < text.size()) {
    const ClassedChar next = classed_char(text, end);
    if (next.char_class != CharClass::kSpace) return last == begin ? end : last;
    last = end;
    end += next.bytes;
  }
  return end;
}

/// Calls `use(word)` for each word of GPT-2's split, in order; together they are `text`.
template <class Use>
void for_each_gpt2_word(std::string_view text, Use&& use) {
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = gpt2_word_end(text, begin);
    use(text.substr(begin, end - begin));
    begin = end;
  }
}

}  // namespace offsite
