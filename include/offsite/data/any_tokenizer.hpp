#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "offsite/data/bpe_tokenizer.hpp"
#include "offsite/data/sentence_piece.hpp"
#include "offsite/data/tokenizer.hpp"

namespace offsite {

/// A tokenizer of whatever kind a model folder holds.
class AnyTokenizer {
 public:
  AnyTokenizer(BpeTokenizer tokenizer) : tokenizer_(std::move(tokenizer)) {}
  AnyTokenizer(SentencePiece tokenizer) : tokenizer_(std::move(tokenizer)) {}

  /// Ids of `text`; adds no begin or end token.
  [[nodiscard]] std::vector<std::int32_t> encode(std::string_view text) const {
    return bpe() != nullptr ? bpe()->encode(text) : sentence_piece().encode(text);
  }
  /// What `ids` stand for. Where the tokenizer puts a space before each text, it is taken off again.
  /// \throws ArgumentError for an id outside the vocabulary.
  [[nodiscard]] std::string decode(std::span<const std::int32_t> ids) const {
    return bpe() != nullptr ? bpe()->decode(ids) : sentence_piece().decode(ids);
  }
  /// The bytes that one id stands for in the middle of a text, as when a text is continued.
  /// \throws ArgumentError for an id outside the vocabulary.
  [[nodiscard]] std::string bytes_of(std::int32_t id) const {
    return bpe() != nullptr ? std::string(bpe()->bytes_of(id)) : sentence_piece().bytes_of(id);
  }
  [[nodiscard]] std::int64_t vocabulary_size() const {
    return bpe() != nullptr ? bpe()->vocabulary_size() : sentence_piece().vocabulary_size();
  }
  [[nodiscard]] std::optional<std::int32_t> bos_id() const {
    return bpe() != nullptr ? bpe()->bos_id() : sentence_piece().bos_id();
  }
  [[nodiscard]] std::optional<std::int32_t> eos_id() const {
    return bpe() != nullptr ? bpe()->eos_id() : sentence_piece().eos_id();
  }
  [[nodiscard]] bool adds_bos() const {
    return bpe() != nullptr ? bpe()->adds_bos() : sentence_piece().adds_bos();
  }

  /// The tokenizer if it is a BPE, else null.
  [[nodiscard]] const BpeTokenizer* bpe() const { return std::get_if<BpeTokenizer>(&tokenizer_); }

 private:
  [[nodiscard]] const SentencePiece& sentence_piece() const {
    return *std::get_if<SentencePiece>(&tokenizer_);
  }

  std::variant<BpeTokenizer, SentencePiece> tokenizer_;
};

static_assert(Tokenizer<AnyTokenizer>);

}  // namespace offsite
