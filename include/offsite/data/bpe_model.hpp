#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/core/utf8.hpp"
#include "offsite/data/added_tokens.hpp"
#include "offsite/data/bpe_merges.hpp"
#include "offsite/data/text_normalizer.hpp"
#include "offsite/data/text_splitter.hpp"
#include "offsite/data/word_table.hpp"

namespace offsite {

/// What a BPE tokenizer consists of; `load_tokenizer` fills it from files.
struct BpeParts {
  struct Token {
    std::string bytes;    ///< what the id decodes to
    bool learned = true;  ///< a word may become it
  };
  std::vector<Token> tokens = {};                    ///< by id
  std::vector<std::string> spellings = {};           ///< by id, how words spell tokens; empty: as their bytes
  std::vector<BpeMerge> merges = {};                 ///< by rank
  std::array<std::int32_t, 256> bytes = no_bytes();  ///< id of each byte, -1 where the vocabulary has none
  bool by_character = false;  ///< words are merged from characters, and from bytes only where one has no id
  std::vector<AddedToken> added_tokens = {};  ///< looked for in the text

  TextNormalizer normalizer = TextNormalizer();
  TextSplitter splitter = TextSplitter({SplitStep{}});  ///< GPT-2's pattern
  bool ignore_merges = false;                ///< a word that is a token becomes it, whatever the merges say
  bool fuse_unknown = false;                 ///< neighbouring characters without an id become one `unknown`
  std::optional<std::int32_t> unknown = {};  ///< for what has no id; if unset, that is left out
  std::optional<std::int32_t> bos = {}, eos = {};
  bool adds_bos = false;

  std::int64_t drops_spaces = 0;  ///< as many spaces a decoded text loses at its beginning
  std::string drops_marker = {};  ///< the first of the ids decoded loses every one of these in its spelling

  static constexpr std::array<std::int32_t, 256> no_bytes() {
    std::array<std::int32_t, 256> ids{};
    ids.fill(-1);
    return ids;
  }
};

namespace detail {

inline constexpr std::string_view kMarker = "\xe2\x96\x81";  // U+2581, which stands for a space

inline std::string_view spelling_of(const BpeParts& parts, std::size_t id) {
  return parts.spellings.empty() ? parts.tokens[id].bytes : parts.spellings[id];
}

/// Finds the tokens of single words; changes nothing after its construction.
///
/// Sennrich, Haddow, Birch, "Neural Machine Translation of Rare Words with Subword Units" (arXiv:1508.07909).
class BpeModel {
 public:
  /// Takes what it needs of `parts`, whose ids have been checked.
  explicit BpeModel(const BpeParts& parts)
      : merges_(parts.merges),
        bytes_(parts.bytes),
        unknown_(parts.unknown.value_or(-1)),
        fuse_unknown_(parts.fuse_unknown),
        by_character_(parts.by_character),
        words_(parts.tokens.size()) {
    if (by_character_) collect_characters(parts);
    collect_words(parts);
    cuts_ = by_character_ && !parts.ignore_merges && characters_.find(kMarker) >= 0 && never_joins(parts);
  }

  /// Appends the ids of a word, which is not empty. `symbols` is memory that serves all words.
  void append_word(std::string_view word, std::vector<std::int32_t>& symbols,
                   std::vector<std::int32_t>& ids) const {
    if (cuts_)
      append_cut(word, symbols, ids);
    else
      append_piece(word, symbols, ids);
  }

 private:
  void append_cut(std::string_view word, std::vector<std::int32_t>& symbols,
                  std::vector<std::int32_t>& ids) const {
    for (std::size_t begin = 0; begin < word.size();) {
      std::size_t end = begin;
      while (word.substr(end).starts_with(kMarker)) end += kMarker.size();
      end = std::min(word.find(kMarker, end), word.size());
      append_piece(word.substr(begin, end - begin), symbols, ids);
      begin = end;
    }
  }

  void append_piece(std::string_view word, std::vector<std::int32_t>& symbols,
                    std::vector<std::int32_t>& ids) const {
    const std::int32_t id = words_.find(word);
    if (id >= 0)
      ids.push_back(id);
    else
      merge(word, symbols, ids);
  }

  void merge(std::string_view word, std::vector<std::int32_t>& symbols,
             std::vector<std::int32_t>& ids) const {
    symbols.clear();
    if (by_character_)
      spell_by_character(word, symbols);
    else
      spell_by_byte(word, symbols);
    merges_.apply(symbols, ids);
  }

  void spell_by_byte(std::string_view word, std::vector<std::int32_t>& symbols) const {
    bool after_unknown = false;
    for (const char c : word) {
      const std::int32_t id = bytes_[static_cast<unsigned char>(c)];
      if (id >= 0)
        symbols.push_back(id);
      else if (unknown_ >= 0 && !(after_unknown && fuse_unknown_))
        symbols.push_back(unknown_);
      after_unknown = id < 0;
    }
  }

  void spell_by_character(std::string_view word, std::vector<std::int32_t>& symbols) const {
    bool pending = false;  // an unknown is written once the next known character comes, as in Hugging Face's
    for (std::size_t at = 0; at < word.size();) {
      const std::size_t size = std::max<std::size_t>(first_code_point(word.substr(at)).bytes, 1);
      const std::string_view character = word.substr(at, size);
      at += size;
      const auto lead = static_cast<unsigned char>(character[0]);
      const std::int32_t id = lead < 0x80 ? ascii_[lead] : characters_.find(character);
      if (id >= 0) {
        if (std::exchange(pending, false)) symbols.push_back(unknown_);
        symbols.push_back(id);
        continue;
      }
      const std::size_t before = symbols.size();
      for (const char c : character) symbols.push_back(bytes_[static_cast<unsigned char>(c)]);
      if (std::find(symbols.begin() + static_cast<std::ptrdiff_t>(before), symbols.end(), -1) ==
          symbols.end())
        continue;
      symbols.resize(before);
      if (unknown_ < 0) continue;
      if (pending && !fuse_unknown_) symbols.push_back(unknown_);
      pending = true;
    }
    if (pending) symbols.push_back(unknown_);
  }

  void collect_characters(const BpeParts& parts) {
    const auto is_character = [&](std::size_t id) {
      const std::string_view spelling = spelling_of(parts, id);
      return parts.tokens[id].learned && !spelling.empty() &&
             first_code_point(spelling).bytes == spelling.size();
    };
    std::size_t count = 0;
    for (std::size_t id = 0; id < parts.tokens.size(); ++id) count += is_character(id) ? 1 : 0;
    characters_ = WordTable(count);
    ascii_.fill(-1);
    for (std::size_t id = 0; id < parts.tokens.size(); ++id) {
      if (!is_character(id)) continue;
      const std::string_view spelling = spelling_of(parts, id);
      characters_.insert(spelling, static_cast<std::int32_t>(id));
      if (spelling.size() == 1)
        ascii_[static_cast<unsigned char>(spelling[0])] = static_cast<std::int32_t>(id);
    }
  }

  /// Fills the table with the words whose only token the merges would find as well.
  void collect_words(const BpeParts& parts) {
    std::vector<std::int32_t> symbols, merged;
    for (std::size_t id = 0; id < parts.tokens.size(); ++id) {
      const std::string_view spelling = spelling_of(parts, id);
      // Longer tokens are rare words: merging those is cheaper than looking for each long word in a table.
      if (!parts.tokens[id].learned || spelling.empty() || (spelling.size() > 16 && !parts.ignore_merges))
        continue;
      merged.clear();
      if (!parts.ignore_merges) merge(spelling, symbols, merged);
      const bool is_word =
          parts.ignore_merges || (merged.size() == 1 && merged[0] == static_cast<std::int32_t>(id));
      if (is_word) words_.insert(spelling, static_cast<std::int32_t>(id));
    }
  }

  /// Whether no merge joins a marker to what stands before it, unless that is a marker, too. Then a text can be cut
  /// there into words, and words are found much faster than long texts are merged.
  static bool never_joins(const BpeParts& parts) {
    return std::none_of(parts.merges.begin(), parts.merges.end(), [&](const BpeMerge& rule) {
      const auto side = [&](std::int32_t id) { return spelling_of(parts, static_cast<std::size_t>(id)); };
      return side(rule.right).starts_with(kMarker) && !side(rule.left).ends_with(kMarker);
    });
  }

  BpeMerges merges_;
  std::array<std::int32_t, 256> bytes_;
  std::int32_t unknown_;
  bool fuse_unknown_, by_character_;
  bool cuts_ = false;
  std::array<std::int32_t, 128> ascii_{};
  WordTable words_, characters_;
};

}  // namespace detail
}  // namespace offsite
