#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/data/added_tokens.hpp"
#include "offsite/data/bpe_merges.hpp"
#include "offsite/data/pretokenize.hpp"
#include "offsite/data/tokenizer.hpp"
#include "offsite/data/word_table.hpp"

namespace offsite {

/// What a byte-level BPE tokenizer consists of; `load_tokenizer` fills it from files.
struct ByteLevelBpeParts {
  struct Token {
    std::string bytes;    ///< what the id decodes to
    bool learned = true;  ///< spelled in the byte alphabet: a word may become it
  };
  std::vector<Token> tokens = {};                    ///< by id
  std::vector<BpeMerge> merges = {};                 ///< by rank
  std::array<std::int32_t, 256> bytes = no_bytes();  ///< id of each byte, -1 where the vocabulary has none
  std::vector<AddedToken> added_tokens = {};         ///< looked for in the text

  bool add_prefix_space = false;             ///< a text that does not begin with a space gets one
  bool split_words = true;                   ///< by GPT-2's pattern; else a text is one word
  bool ignore_merges = false;                ///< a word that is a token becomes it, whatever the merges say
  bool fuse_unknown = false;                 ///< neighbouring bytes without an id become one `unknown`
  std::optional<std::int32_t> unknown = {};  ///< for bytes without an id; if unset, such bytes are left out
  std::optional<std::int32_t> bos = {}, eos = {};
  bool adds_bos = false;

  static constexpr std::array<std::int32_t, 256> no_bytes() {
    std::array<std::int32_t, 256> ids{};
    ids.fill(-1);
    return ids;
  }
};

/// GPT-2's tokenizer: splits text into words and merges the bytes of each into tokens. Equal to Hugging
/// Face's.
///
/// Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), section 2.2. Holds no cache
/// and changes nothing after its construction: any number of threads may encode at once.
class ByteLevelBpe {
 public:
  /// \throws ArgumentError if a part names an id that is not one of `parts.tokens`.
  explicit ByteLevelBpe(ByteLevelBpeParts parts)
      : parts_(std::move(parts)), merges_(parts_.merges), words_(parts_.tokens.size()) {
    check_ids();
    std::vector<AddedToken> first, then;
    for (AddedToken& token : parts_.added_tokens)
      (token.normalized ? then : first).push_back(std::move(token));
    first_added_ = detail::AddedTokenFinder(std::move(first));
    then_added_ = detail::AddedTokenFinder(std::move(then));
    collect_words();
    parts_.merges = {};
    parts_.added_tokens = {};
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
    const auto on_token = [&](std::int32_t id) { ids.push_back(id); };
    const auto on_text = [&](std::string_view part) { append_plain(part, symbols, ids); };
    first_added_.split(
        text, [&](std::string_view part) { then_added_.split(part, on_text, on_token); }, on_token);
  }

  /// The bytes that `ids` stand for; they need not be valid UTF-8. Special tokens give their text.
  /// \throws ArgumentError for an id outside the vocabulary.
  [[nodiscard]] std::string decode(std::span<const std::int32_t> ids) const {
    std::string text;
    for (const std::int32_t id : ids) text += bytes_of(id);
    return text;
  }

  /// The bytes that one id stands for.
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
  void check_ids() const {
    const auto check = [&](std::int32_t id, std::string_view what) {
      require(0 <= id && id < vocabulary_size(), "{} has the id {}, but there are {} tokens", what, id,
              vocabulary_size());
    };
    for (const BpeMerge& merge : parts_.merges) {
      check(merge.left, "the left side of a merge");
      check(merge.right, "the right side of a merge");
      check(merge.merged, "the result of a merge");
    }
    for (const std::int32_t id : parts_.bytes)
      if (id != -1) check(id, "a byte");
    for (const AddedToken& token : parts_.added_tokens) check(token.id, "an added token");
    if (parts_.unknown) check(*parts_.unknown, "the unknown token");
    if (parts_.bos) check(*parts_.bos, "the begin token");
    if (parts_.eos) check(*parts_.eos, "the end token");
  }

  /// Fills the table with the words whose only token the merges would find as well.
  void collect_words() {
    std::vector<std::int32_t> symbols, merged;
    for (std::size_t id = 0; id < parts_.tokens.size(); ++id) {
      const ByteLevelBpeParts::Token& token = parts_.tokens[id];
      // Longer tokens are rare words: merging those is cheaper than looking for each long word in a table.
      if (!token.learned || token.bytes.empty() || (token.bytes.size() > 16 && !parts_.ignore_merges))
        continue;
      merged.clear();
      if (!parts_.ignore_merges) merge_word(token.bytes, symbols, merged);
      const bool is_word =
          parts_.ignore_merges || (merged.size() == 1 && merged[0] == static_cast<std::int32_t>(id));
      if (is_word) words_.insert(token.bytes, static_cast<std::int32_t>(id));
    }
  }

  void append_plain(std::string_view text, std::vector<std::int32_t>& symbols,
                    std::vector<std::int32_t>& ids) const {
    std::string with_space;
    if (parts_.add_prefix_space && !text.empty() && text[0] != ' ') {
      with_space.reserve(text.size() + 1);
      with_space += ' ';
      with_space += text;
      text = with_space;
    }
    const auto append_word = [&](std::string_view word) {
      const std::int32_t id = words_.find(word);
      if (id >= 0)
        ids.push_back(id);
      else
        merge_word(word, symbols, ids);
    };
    if (parts_.split_words)
      for_each_gpt2_word(text, append_word);
    else if (!text.empty())
      append_word(text);
  }

  void merge_word(std::string_view word, std::vector<std::int32_t>& symbols,
                  std::vector<std::int32_t>& ids) const {
    symbols.clear();
    bool after_unknown = false;
    for (const char c : word) {
      const std::int32_t id = parts_.bytes[static_cast<unsigned char>(c)];
      if (id >= 0)
        symbols.push_back(id);
      else if (parts_.unknown && !(after_unknown && parts_.fuse_unknown))
        symbols.push_back(*parts_.unknown);
      after_unknown = id < 0;
    }
    merges_.apply(symbols, ids);
  }

  ByteLevelBpeParts parts_;
  BpeMerges merges_;
  detail::WordTable words_;
  detail::AddedTokenFinder first_added_, then_added_;
};

static_assert(Tokenizer<ByteLevelBpe>);

}  // namespace offsite
