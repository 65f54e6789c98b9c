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
#include "offsite/data/byte_level_bpe.hpp"
#include "offsite/data/tokenizer_json.hpp"
#include "offsite/data/tokenizer_vocabulary.hpp"
#include "offsite/io/json.hpp"

namespace offsite {

/// The files of a model folder that make up its tokenizer, in the order in which they are looked for.
inline constexpr std::array<std::string_view, 8> kTokenizerFiles{"tokenizer.json",
                                                                 "vocab.json",
                                                                 "merges.txt",
                                                                 "encoder.json",
                                                                 "vocab.bpe",
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

/// The id of the special token `name` ("bos" or "eos"): the tokenizer's own files first, config.json then.
inline std::optional<std::int32_t> special_id(std::string_view name, const TokenizerNotes& notes,
                                              const VocabularyReader& vocabulary) {
  const std::string key = std::string(name) + "_token";
  const auto named_in = [&](const Json& from, std::string_view file) -> std::optional<std::int32_t> {
    const auto content = read_special(from, key, notes.path_of(file));
    if (!content) return {};
    const auto id = vocabulary.find(*content);
    require<ProtocolError>(id.has_value(), "{}: {} is {}, which is not in the vocabulary",
                           notes.path_of(file), key, excerpt(*content));
    return id;
  };
  if (const auto id = named_in(notes.tokenizer_config, "tokenizer_config.json")) return id;
  if (const auto id = named_in(notes.special_tokens_map, "special_tokens_map.json")) return id;

  const Json* value = &field_of(notes.config, key + "_id");
  if (value->is_array() && !value->empty()) value = &value->elements().front();
  if (value->is_number()) {
    const std::int32_t id = read_token_id(*value, notes.path_of("config.json"), key + "_id");
    // GPT-2's defaults stand in the configuration of many a small model whose vocabulary ends before them.
    if (id < vocabulary.size()) return id;
  }
  return vocabulary.find("<|endoftext|>");  // both of GPT-2's, whose published files do not say so
}

}  // namespace detail

/// Reads the tokenizer of a model folder, chosen by the files that are there: tokenizer.json, else vocab.json
/// with merges.txt, else encoder.json with vocab.bpe.
///
/// Special tokens are found in text only if tokenizer.json lists them in `added_tokens`. Begin and end token
/// are those of tokenizer_config.json, else special_tokens_map.json, else config.json, else "<|endoftext|>"
/// if there is one.
/// \throws ArgumentError if the folder holds no tokenizer, ProtocolError naming file and field if it is
/// broken or of a kind that is not supported.
[[nodiscard]] inline ByteLevelBpe load_tokenizer(const std::filesystem::path& folder) {
  const auto has = [&](std::string_view name) { return std::filesystem::exists(folder / name); };
  require(std::filesystem::is_directory(folder), "cannot read a tokenizer from {}: there is no such folder",
          folder.string());
  const detail::TokenizerNotes notes(folder);
  const std::string config_file = notes.path_of("tokenizer_config.json");
  const auto add_prefix_space = detail::read_flag(notes.tokenizer_config, "add_prefix_space", config_file);
  const auto add_bos = detail::read_flag(notes.tokenizer_config, "add_bos_token", config_file);

  const auto finish = [&](detail::VocabularyReader& vocabulary, std::optional<std::int32_t> begin) {
    const auto bos = detail::special_id("bos", notes, vocabulary);
    const auto eos = detail::special_id("eos", notes, vocabulary);
    ByteLevelBpeParts parts = vocabulary.take();
    parts.bos = begin && add_bos.value_or(true) ? begin : bos;
    parts.eos = eos;
    parts.adds_bos = add_bos.value_or(begin.has_value());
    require<ProtocolError>(!parts.adds_bos || parts.bos.has_value(),
                           "{}: add_bos_token is true, but no file names the begin token", config_file);
    return parts;
  };

  if (has("tokenizer.json")) {
    detail::TokenizerJson read = detail::read_tokenizer_json(folder / "tokenizer.json");
    const auto unknown = read.vocabulary.find(read.unknown);
    ByteLevelBpeParts parts = finish(read.vocabulary, read.begin);
    require<ProtocolError>(!read.begin || *read.begin < static_cast<std::int64_t>(parts.tokens.size()),
                           "{}: the post_processor's begin token has the id {}, but there are {} tokens",
                           notes.path_of("tokenizer.json"), read.begin.value_or(0), parts.tokens.size());
    parts.added_tokens = std::move(read.added_tokens);
    parts.add_prefix_space = add_prefix_space.value_or(read.add_prefix_space);
    parts.split_words = read.split_words;
    parts.ignore_merges = read.ignore_merges;
    parts.fuse_unknown = read.fuse_unknown;
    parts.unknown = unknown;
    return ByteLevelBpe(std::move(parts));
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
    const auto unknown_id = vocabulary.find(unknown.value_or("<|endoftext|>"));
    ByteLevelBpeParts parts = finish(vocabulary, {});
    parts.add_prefix_space = add_prefix_space.value_or(false);
    parts.unknown = unknown_id;
    return ByteLevelBpe(std::move(parts));
  }
  require(!has("tokenizer.model"),
          "{} holds a SentencePiece tokenizer (tokenizer.model), which is not supported yet",
          folder.string());
  throw ArgumentError(
      fmt::format("{} holds no tokenizer: neither tokenizer.json, nor vocab.json with merges.txt, nor "
                  "encoder.json with vocab.bpe",
                  folder.string()));
}

}  // namespace offsite
