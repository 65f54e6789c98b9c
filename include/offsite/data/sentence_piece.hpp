#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/data/sentence_piece_file.hpp"
#include "offsite/data/tokenizer.hpp"
#include "offsite/io/mapped_file.hpp"
#ifdef OFFSITE_SENTENCEPIECE  // set by the build where Meson's option `sentencepiece` found the library
#include <sentencepiece_processor.h>
#endif

namespace sentencepiece {
class SentencePieceProcessor;
}

namespace offsite {

/// A SentencePiece model: what the `tokenizer.model` of Llama 1 and 2, Mistral and Gemma holds. Ids are the library's.
///
/// Kudo, Richardson, "SentencePiece" (arXiv:1808.06226). Most models put a space before each text ("legacy" in Hugging
/// Face's words), and decoding takes it off. Bytes that are no UTF-8 become U+FFFD. Special tokens are not looked for in
/// text, and decode to nothing. Copies share the model; any number of threads may encode at once.
class SentencePiece {
 public:
  /// \throws ArgumentError if the file cannot be read or this build has no SentencePiece, ProtocolError if the file is
  /// broken.
  explicit SentencePiece(const std::filesystem::path& path);

  /// Ids of `text`; adds no begin or end token.
  [[nodiscard]] std::vector<std::int32_t> encode(std::string_view text) const;

  /// The text that `ids` stand for. \throws ArgumentError for an id outside the vocabulary.
  [[nodiscard]] std::string decode(std::span<const std::int32_t> ids) const;

  /// The bytes that one id stands for in the middle of a text. \throws ArgumentError for an id outside the vocabulary.
  [[nodiscard]] std::string bytes_of(std::int32_t id) const;

  /// The id of a piece, spelled as in the model: U+2581 for a space.
  [[nodiscard]] std::optional<std::int32_t> find(std::string_view piece) const;

  [[nodiscard]] std::int64_t vocabulary_size() const;
  [[nodiscard]] std::optional<std::int32_t> bos_id() const { return bos_; }
  [[nodiscard]] std::optional<std::int32_t> eos_id() const { return eos_; }
  [[nodiscard]] bool adds_bos() const { return adds_bos_; }

  /// What the files beside the model say; the model names a begin token and puts it before texts, if it has one.
  /// \throws ArgumentError for an id outside the vocabulary.
  void set_special_ids(std::optional<std::int32_t> bos, std::optional<std::int32_t> eos, bool adds_bos) {
    for (const auto& id : {bos, eos}) check(id.value_or(0));
    bos_ = bos;
    eos_ = eos;
    adds_bos_ = adds_bos;
  }

 private:
  void check(std::int32_t id) const {
    require(0 <= id && id < vocabulary_size(),
            "token id {} is not in the tokenizer's vocabulary of {} tokens", id, vocabulary_size());
  }

  std::shared_ptr<const sentencepiece::SentencePieceProcessor> processor_;
  std::optional<std::int32_t> bos_, eos_;
  bool adds_bos_ = false;
};

static_assert(Tokenizer<SentencePiece>);

#ifdef OFFSITE_SENTENCEPIECE

inline SentencePiece::SentencePiece(const std::filesystem::path& path) {
  const MappedFile file(path);
  const std::string name = path.string();
  detail::check_sentence_piece_model(file.text(), name);
  auto processor = std::make_shared<sentencepiece::SentencePieceProcessor>();
  try {
    const auto status = processor->LoadFromSerializedProto(file.text());
    require<ProtocolError>(status.ok(), "{} is no SentencePiece model: {}", name, status.ToString());
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    require<ProtocolError>(false, "{} is no SentencePiece model: {}", name, error.what());
  }
  const auto id = [&](int value) { return value < 0 ? std::nullopt : std::optional<std::int32_t>(value); };
  bos_ = id(processor->bos_id());
  eos_ = id(processor->eos_id());
  adds_bos_ = bos_.has_value();
  processor_ = std::move(processor);
}

inline std::vector<std::int32_t> SentencePiece::encode(std::string_view text) const {
  std::vector<int> ids;
  const auto status = processor_->Encode(text, &ids);
  require(status.ok(), "SentencePiece could not encode a text of {} bytes: {}", text.size(),
          status.ToString());
  return ids;
}

inline std::string SentencePiece::decode(std::span<const std::int32_t> ids) const {
  for (const std::int32_t id : ids) check(id);
  std::string text;
  const auto status = processor_->Decode(std::vector<int>(ids.begin(), ids.end()), &text);
  require(status.ok(), "SentencePiece could not decode {} ids: {}", ids.size(), status.ToString());
  return text;
}

inline std::string SentencePiece::bytes_of(std::int32_t id) const {
  check(id);
  if (processor_->IsControl(id)) return {};
  const std::string& piece = processor_->IdToPiece(id);
  if (processor_->IsByte(id)) return {static_cast<char>(std::stoi(piece.substr(3, 2), nullptr, 16))};
  if (processor_->IsUnknown(id)) return decode(std::span(&id, 1));
  std::string text;
  for (std::size_t at = 0; at < piece.size(); ++at) {
    const bool space = piece.compare(at, 3, "\xe2\x96\x81") == 0;
    text += space ? ' ' : piece[at];
    if (space) at += 2;
  }
  return text;
}

inline std::optional<std::int32_t> SentencePiece::find(std::string_view piece) const {
  const int id = processor_->PieceToId(piece);
  if (processor_->IsUnknown(id) && processor_->IdToPiece(id) != piece) return {};
  return id;
}

inline std::int64_t SentencePiece::vocabulary_size() const { return processor_->GetPieceSize(); }

#else

inline SentencePiece::SentencePiece(const std::filesystem::path& path) {
  require(false,
          "{} is a SentencePiece model, and this build cannot read any: install the package "
          "libsentencepiece-dev and "
          "configure anew with Meson's option -Dsentencepiece=enabled",
          path.string());
}

// No object exists without the library: the constructor throws.
inline std::vector<std::int32_t> SentencePiece::encode(std::string_view) const { return {}; }
inline std::string SentencePiece::decode(std::span<const std::int32_t>) const { return {}; }
inline std::string SentencePiece::bytes_of(std::int32_t) const { return {}; }
inline std::optional<std::int32_t> SentencePiece::find(std::string_view) const { return {}; }
inline std::int64_t SentencePiece::vocabulary_size() const { return 0; }

#endif

}  // namespace offsite
