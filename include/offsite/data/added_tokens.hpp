#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/data/unicode.hpp"

namespace offsite {

/// A token that is found in the text itself, before it is split: tokenizer.json's `added_tokens`.
struct AddedToken {
  std::int32_t id = 0;
  std::string content;       ///< as it stands in the text, not empty
  bool single_word = false;  ///< only where no word character is next to it
  bool lstrip = false;       ///< takes the white space before it along
  bool rstrip = false;       ///< takes the white space after it along
  bool normalized = false;   ///< looked for after those that are not, in what they leave
};

namespace detail {

/// `text` without the white space that ends it.
inline std::string_view without_space_at_end(std::string_view text) {
  for (;;) {
    const CodePoint last = last_code_point(text);
    if (last.bytes == 0 || char_class(last.value) != CharClass::kSpace) return text;
    text.remove_suffix(last.bytes);
  }
}

/// Whether the code point is there and a word character.
inline bool is_word_character(const CodePoint& point) {
  return point.bytes != 0 && offsite::is_word_character(point.value);
}

/// Finds added tokens in text: at the leftmost place, there the longest.
class AddedTokenFinder {
 public:
  AddedTokenFinder() = default;

  /// \throws ArgumentError if a token has no text.
  explicit AddedTokenFinder(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
    for (const AddedToken& token : tokens_)
      require(!token.content.empty(), "added token {} has no text", token.id);
    std::sort(tokens_.begin(), tokens_.end(), [](const AddedToken& a, const AddedToken& b) {
      const auto key = [](const AddedToken& t) {
        return std::pair(first_byte(t.content), -static_cast<std::int64_t>(t.content.size()));
      };
      return key(a) < key(b);
    });
    for (const AddedToken& token : tokens_) ends_[first_byte(token.content)] += 1;
    for (std::size_t byte = 1; byte < 256; ++byte) ends_[byte] += ends_[byte - 1];
  }

  /// Calls `on_text(part)` and `on_token(id)` in the order in which they make up `text`; parts are not empty.
  template <class OnText, class OnToken>
  void split(std::string_view text, OnText&& on_text, OnToken&& on_token) const {
    std::size_t done = 0;
    for (std::size_t at = 0; at < text.size() && !tokens_.empty();) {
      const AddedToken* token = longest_at(text, at);
      if (token == nullptr) {
        at += 1;
        continue;
      }
      std::size_t begin = at;
      at += token->content.size();
      if (token->single_word && (is_word_character(last_code_point(text.substr(0, begin))) ||
                                 is_word_character(first_code_point(text.substr(at)))))
        continue;
      if (token->lstrip) begin = done + without_space_at_end(text.substr(done, begin - done)).size();
      if (token->rstrip) at = end_of_run(text, at, CharClass::kSpace);
      if (begin > done) on_text(text.substr(done, begin - done));
      on_token(token->id);
      done = at;
    }
    if (done < text.size()) on_text(text.substr(done));
  }

 private:
  static std::size_t first_byte(std::string_view text) { return static_cast<unsigned char>(text[0]); }

  const AddedToken* longest_at(std::string_view text, std::size_t at) const {
    const std::size_t byte = first_byte(text.substr(at));
    for (std::size_t i = byte == 0 ? 0 : ends_[byte - 1]; i < ends_[byte]; ++i)
      if (text.substr(at, tokens_[i].content.size()) == tokens_[i].content) return &tokens_[i];
    return nullptr;
  }

  std::vector<AddedToken> tokens_;       // by first byte, then longest first
  std::array<std::size_t, 256> ends_{};  // [byte]: where the tokens that begin with it end in `tokens_`
};

}  // namespace detail
}  // namespace offsite
