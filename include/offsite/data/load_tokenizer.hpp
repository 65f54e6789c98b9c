#pragma once
#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/data/any_tokenizer.hpp"
#include "offsite/data/bpe_tokenizer.hpp"
#include "offsite/data/sentence_piece.hpp"
#include "offsite/data/tokenizer_json.hpp"
#include "offsite/data/tokenizer_vocabulary.hpp"
#include "offsite/io/json.hpp"

namespace offsite {

/// The files of a model folder that make up its tokenizer, in the order in which they are looked for.
inline constexpr std::array<std::string_view, 9> kTokenizerFiles{"tokenizer.json",
                                                                 "vocab.json",
                                                                 "merges.txt",
                                                                 "encoder.json",
                                                                 "vocab.bpe",
                                                                 "tokenizer.model",
                                                                 "tokenizer_config.json",
                                                                 "special_tokens_map.json",
                                                                 "added_tokens.json"};

/// Those of `kTokenizerFiles` that `folder` holds.
[[nodiscard]] inline std::vector<std::filesystem::path> tokenizer_files(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> found;
  for (const std::string_view name : kTokenizerFiles)
    if (std::filesystem::exists(folder / name)) found.push_back(folder / name);
  return found;
}

namespace detail {

/// The JSON object in `folder / name`; null if there is no such file.
inline Json read_optional_json(const std::filesystem::path& folder, std::string_view name) {
  if (!std::filesystem::exists(folder / name)) return nullptr;
  Json read = read_json(folder / name);
  require<ProtocolError>(read.is_object(), "{} is not a JSON object", (folder / name).string());
  return read;
}

/// What a folder says about its tokenizer beside vocabulary and merges.
struct TokenizerNotes {
  std::filesystem::path folder;
  Json tokenizer_config, special_tokens_map, added_tokens, config;

  explicit TokenizerNotes(std::filesystem::path in)
      : folder(std::move(in)),
        tokenizer_config(read_optional_json(folder, "tokenizer_config.json")),
        special_tokens_map(read_optional_json(folder, "special_tokens_map.json")),
        added_tokens(read_optional_json(folder, "added_tokens.json")),
        config(read_optional_json(folder, "config.json")) {}

  [[nodiscard]] std::string path_of(std::string_view name) const { return (folder / name).string(); }
};

/// A special token's text: a string, or an object that holds it as `content`. Nothing if absent or null.
inline std::optional<std::string> read_special(const Json& from, std::string_view key,
                                               const std::string& file) {
  const Json& value = field_of(from, key);
  if (value.is_null()) return {};
  const Json& content = value.is_object() ? field_of(value, "content") : value;
  require<ProtocolError>(content.is_string(), "{}: {} is neither a text nor an object with content", file,
                         key);
  return content.get<std::string>();
}

/// Adds the tokens that tokenizer_config.json and added_tokens.json give an id; they are not looked for in
/// text.
inline void add_noted_tokens(const TokenizerNotes& notes, VocabularyReader& vocabulary) {
  const std::string config_file = notes.path_of("tokenizer_config.json");
  const Json& decoder = field_of(notes.tokenizer_config, "added_tokens_decoder");
  require<ProtocolError>(decoder.is_null() || decoder.is_object(),
                         "{}: added_tokens_decoder is not an object", config_file);
  for (const auto& [key, token] : decoder.items()) {
    const auto content = read_special(decoder, key, config_file);
    const bool number = !key.empty() && key.size() < 11 && key.find_first_not_of("0123456789") == key.npos;
    const Json id = number ? Json(std::stoll(key)) : Json(key);
    require<ProtocolError>(content.has_value(), "{}: added_tokens_decoder {} has no content", config_file,
                           excerpt(key));
    vocabulary.add(*content, read_token_id(id, config_file, "added_tokens_decoder " + excerpt(key)),
                   config_file);
  }
  const std::string added_file = notes.path_of("added_tokens.json");
  for (const auto& [token, id] : notes.added_tokens.items())
    vocabulary.add(token, read_token_id(id, added_file, excerpt(token)), added_file);
}

/// The id of the special token `name` ("bos" or "eos"): the tokenizer's own files first, config.json then. `find(text)`
/// gives a token's id, if it has one; `size` is the number of tokens.
template <class Find>
std::optional<std::int32_t> special_id(std::string_view name, const TokenizerNotes& notes, std::int64_t size,
                                       Find&& find) {
  const std::string key = std::string(name) + "_token";
  const auto named_in = [&](const Json& from, std::string_view file) -> std::optional<std::int32_t> {
    const auto content = read_special(from, key, notes.path_of(file));
    if (!content) return {};
    const std::optional<std::int32_t> id = find(*content);
    require<ProtocolError>(id.has_value(), "{}: {} is {}, which is not in the vocabulary",
                           notes.path_of(file), key, excerpt(*content));
    return id;
  };
  if (const auto id = named_in(notes.tokenizer_config, "tokenizer_config.json")) return id;
  if (const auto id = named_in(notes.special_tokens_map, "special_tokens_map.json")) return id;

  const Json* value = &field_of(notes.config, key + "_id");
  if (value->is_array() && !value->empty()) value = &(*value)[0];
  if (value->is_number()) {
    const std::int32_t id = read_token_id(*value, notes.path_of("config.json"), key + "_id");
    // GPT-2's defaults stand in the configuration of many a small model whose vocabulary ends before them.
    if (id < size) return id;
  }
  return find("<|endoftext|>");  // both of GPT-2's, whose published files do not say so
}

/// Sets begin and end token of a BPE; `begin` is what its post-processor puts before a text.
inline BpeTokenizer finish_bpe(BpeParts parts, const TokenizerNotes& notes,
                               const VocabularyReader& vocabulary, std::optional<std::int32_t> begin) {
  const std::string config_file = notes.path_of("tokenizer_config.json");
  const auto size = static_cast<std::int64_t>(parts.tokens.size());
  const auto find = [&](std::string_view token) { return vocabulary.find(token); };
  const auto add_bos = read_flag(notes.tokenizer_config, "add_bos_token", config_file);
  const bool is_opt =
      field_of(notes.config, "model_type") == "opt";  // its published files leave it to the program
  require<ProtocolError>(!begin || *begin < size,
                         "{}: the post_processor's begin token has the id {}, but there are {} tokens",
                         notes.path_of("tokenizer.json"), begin.value_or(0), size);
  const auto bos = special_id("bos", notes, size, find);
  parts.bos = begin && add_bos.value_or(true) ? begin : bos;
  parts.eos = special_id("eos", notes, size, find);
  parts.adds_bos = add_bos.value_or(begin.has_value() || (is_opt && bos.has_value()));
  require<ProtocolError>(!parts.adds_bos || parts.bos.has_value(),
                         "{}: add_bos_token is true, but no file names the begin token", config_file);
  return BpeTokenizer(std::move(parts));
}

/// Reads tokenizer.model. Where no file says otherwise, the model's begin token comes before each text.
inline SentencePiece load_sentence_piece(const TokenizerNotes& notes) {
  SentencePiece tokenizer(notes.folder / "tokenizer.model");
  const auto find = [&](std::string_view piece) { return tokenizer.find(piece); };
  const auto named = [&](std::string_view name, std::optional<std::int32_t> own) {
    const auto id = special_id(name, notes, tokenizer.vocabulary_size(), find);
    return id ? id : own;
  };
  const auto bos = named("bos", tokenizer.bos_id()), eos = named("eos", tokenizer.eos_id());
  const auto add_bos =
      read_flag(notes.tokenizer_config, "add_bos_token", notes.path_of("tokenizer_config.json"));
  tokenizer.set_special_ids(bos, eos, add_bos.value_or(true) && bos.has_value());
  return tokenizer;
}

}  // namespace detail

/// Reads the tokenizer of a model folder, chosen by the files that are there: tokenizer.json, else vocab.json
/// with merges.txt, else encoder.json with vocab.bpe, else tokenizer.model.
///
/// Special tokens are found in text only if tokenizer.json lists them in `added_tokens`. Begin and end token
/// are those of tokenizer_config.json, else special_tokens_map.json, else config.json, else "<|endoftext|>"
/// if there is one, else tokenizer.model's own.
/// \throws ArgumentError if the folder holds no tokenizer, ProtocolError naming file and field if it is
/// broken or of a kind that is not supported.
[[nodiscard]] inline AnyTokenizer load_tokenizer(const std::filesystem::path& folder) {
  const auto has = [&](std::string_view name) { return std::filesystem::exists(folder / name); };
  require(std::filesystem::is_directory(folder), "cannot read a tokenizer from {}: there is no such folder",
          folder.string());
  const detail::TokenizerNotes notes(folder);
  const std::string config_file = notes.path_of("tokenizer_config.json");
  const auto prefix_space = detail::read_flag(notes.tokenizer_config, "add_prefix_space", config_file);

  if (has("tokenizer.json")) {
    detail::TokenizerJson read = detail::read_tokenizer_json(folder / "tokenizer.json", prefix_space);
    return detail::finish_bpe(std::move(read.parts), notes, read.vocabulary, read.begin);
  }
  for (const auto& [vocabulary_name, merges_name] :
       {std::pair{"vocab.json", "merges.txt"}, std::pair{"encoder.json", "vocab.bpe"}}) {
    if (!has(vocabulary_name)) continue;
    require(has(merges_name), "{} holds {}, but not {}, which belongs to it", folder.string(),
            vocabulary_name, merges_name);
    const std::string file = notes.path_of(vocabulary_name);
    detail::VocabularyReader vocabulary(read_json(folder / vocabulary_name), file, "the file");
    detail::read_merges(folder / merges_name, vocabulary);
    detail::add_noted_tokens(notes, vocabulary);
    const auto unknown = detail::read_special(notes.tokenizer_config, "unk_token", config_file);
    BpeParts parts = vocabulary.take();
    if (prefix_space.value_or(false))
      parts.splitter = TextSplitter({SplitStep{.kind = SplitStep::Kind::kPrefixSpace}, SplitStep{}});
    parts.unknown = vocabulary.find(unknown.value_or("<|endoftext|>"));
    return detail::finish_bpe(std::move(parts), notes, vocabulary, {});
  }
  if (has("tokenizer.model")) return detail::load_sentence_piece(notes);
  throw ArgumentError(
      formatted("{} holds no tokenizer: neither tokenizer.json, nor vocab.json with merges.txt, nor "
                "encoder.json with vocab.bpe, nor tokenizer.model",
                folder.string()));
}

}  // namespace offsite
