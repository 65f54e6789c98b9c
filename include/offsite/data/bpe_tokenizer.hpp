#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/data/added_tokens.hpp"
#include "offsite/data/bpe_model.hpp"
#include "offsite/data/tokenizer.hpp"

namespace offsite {

/// A byte-pair tokenizer: normalises text, splits it into words and merges the bytes or characters of each into tokens.
/// Its ids equal Hugging Face's.
///
/// Holds no cache and changes nothing after its construction: any number of threads may encode at once.
class BpeTokenizer {
 public:
  /// \throws ArgumentError if a part names an id that is not one of `parts.tokens`.
  explicit BpeTokenizer(BpeParts parts) : parts_(checked(std::move(parts))), model_(parts_) {
    std::vector<AddedToken> first, then;
    std::string storage;
    for (AddedToken& token : parts_.added_tokens) {
      if (token.normalized) token.content = std::string(parts_.normalizer.apply(token.content, storage));
      if (!token.content.empty()) (token.normalized ? then : first).push_back(std::move(token));
    }
    first_added_ = detail::AddedTokenFinder(std::move(first));
    then_added_ = detail::AddedTokenFinder(std::move(then));
    parts_.merges = {};
    parts_.added_tokens = {};
    if (parts_.drops_marker.empty()) parts_.spellings = {};
  }

  /// Ids of `text`; adds no begin or end token. Bytes that are no UTF-8 are encoded as they stand.
  [[nodiscard]] std::vector<std::int32_t> encode(std::string_view text) const {
    std::vector<std::int32_t> ids;
    ids.reserve(text.size() / 3);
    append_encoded(text, ids);
    return ids;
  }

  /// Appends the ids of `text` to `ids`.
  void append_encoded(std::string_view text, std::vector<std::int32_t>& ids) const {
    std::vector<std::int32_t> symbols;  // of one word; here so that its memory serves all words
    std::string storage;
    const auto on_token = [&](std::int32_t id) { ids.push_back(id); };
    const auto on_word = [&](std::string_view word) { model_.append_word(word, symbols, ids); };
    const auto on_part = [&](std::string_view part) {
      const std::string_view normalized = parts_.normalizer.apply(part, storage);
      const auto on_text = [&](std::string_view rest) {
        const bool at_start = part.data() == text.data() && rest.data() == normalized.data();
        parts_.splitter.for_each_word(rest, at_start, on_word);
      };
      then_added_.split(normalized, on_text, on_token);
    };
    first_added_.split(text, on_part, on_token);
  }

  /// The bytes that `ids` stand for; they need not be valid UTF-8. Special tokens give their text. Where the tokenizer
  /// puts a space before each text, the first id loses it.
  /// \throws ArgumentError for an id outside the vocabulary.
  [[nodiscard]] std::string decode(std::span<const std::int32_t> ids) const {
    std::string text;
    for (const std::int32_t id : ids) text += bytes_of(id);
    if (!ids.empty() && !parts_.drops_marker.empty()) {
      const auto first = static_cast<std::size_t>(ids[0]);
      text.replace(0, parts_.tokens[first].bytes.size(),
                   detail::replaced(detail::spelling_of(parts_, first), parts_.drops_marker, ""));
    }
    std::size_t dropped = 0;
    while (dropped < static_cast<std::size_t>(parts_.drops_spaces) && text[dropped] == ' ') ++dropped;
    text.erase(0, dropped);
    return text;
  }

  /// The bytes that one id stands for in the middle of a text.
  /// \throws ArgumentError for an id outside the vocabulary.
  [[nodiscard]] std::string_view bytes_of(std::int32_t id) const {
    require(0 <= id && id < vocabulary_size(),
            "token id {} is not in the tokenizer's vocabulary of {} tokens", id, vocabulary_size());
    return parts_.tokens[static_cast<std::size_t>(id)].bytes;
  }

  /// The lowest id that stands for just these bytes, special or not; O(vocabulary).
  [[nodiscard]] std::optional<std::int32_t> find(std::string_view bytes) const {
    for (std::size_t id = 0; id < parts_.tokens.size(); ++id)
      if (parts_.tokens[id].bytes == bytes) return static_cast<std::int32_t>(id);
    return {};
  }

  [[nodiscard]] std::int64_t vocabulary_size() const {
    return static_cast<std::int64_t>(parts_.tokens.size());
  }
  [[nodiscard]] std::optional<std::int32_t> bos_id() const { return parts_.bos; }
  [[nodiscard]] std::optional<std::int32_t> eos_id() const { return parts_.eos; }
  [[nodiscard]] bool adds_bos() const { return parts_.adds_bos; }

 private:
  static BpeParts checked(BpeParts parts) {
    const auto size = static_cast<std::int64_t>(parts.tokens.size());
    const auto check = [&](std::int32_t id, std::string_view what) {
      require(0 <= id && id < size, "{} has the id {}, but there are {} tokens", what, id, size);
    };
    for (const BpeMerge& merge : parts.merges) {
      check(merge.left, "the left side of a merge");
      check(merge.right, "the right side of a merge");
      check(merge.merged, "the result of a merge");
    }
    for (const std::int32_t id : parts.bytes)
      if (id != -1) check(id, "a byte");
    for (const AddedToken& token : parts.added_tokens) {
      check(token.id, "an added token");
      require(!token.content.empty(), "added token {} has no text", token.id);
    }
    require(parts.spellings.empty() || parts.spellings.size() == parts.tokens.size(),
            "there are spellings for {} of {} tokens", parts.spellings.size(), size);
    if (parts.unknown) check(*parts.unknown, "the unknown token");
    if (parts.bos) check(*parts.bos, "the begin token");
    if (parts.eos) check(*parts.eos, "the end token");
    return parts;
  }

  BpeParts parts_;
  detail::BpeModel model_;
  detail::AddedTokenFinder first_added_, then_added_;
};

static_assert(Tokenizer<BpeTokenizer>);

}  // namespace offsite
