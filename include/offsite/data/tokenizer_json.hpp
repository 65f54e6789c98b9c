#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/data/byte_level_bpe.hpp"
#include "offsite/data/tokenizer_vocabulary.hpp"
#include "offsite/io/json.hpp"

namespace offsite::detail {

inline constexpr std::string_view kSupportedKinds =
    "supported are the model BPE, no normalizer, and ByteLevel as pre_tokenizer and decoder";

/// What `key` holds in the object `from`, or null if `from` is no object or has no such key.
inline const Json& field_of(const Json& from, std::string_view key) {
  static const Json null;
  const auto* found = from.find(key);
  return found == nullptr ? null : *found;
}

/// A yes or no in a file; nothing if it is absent or null.
/// \throws ProtocolError if it is something else.
inline std::optional<bool> read_flag(const Json& from, std::string_view key, std::string_view file) {
  const Json& value = field_of(from, key);
  if (value.is_null()) return {};
  require<ProtocolError>(value.is_boolean(), "{}: {} is neither true nor false", file, key);
  return value.get<bool>();
}

/// The steps of a tokenizer.json component: those of a Sequence, which its `key` lists, or the component
/// itself.
inline std::vector<Json> steps_of(const Json& component, std::string_view key) {
  if (component.is_null()) return {};
  if (!(field_of(component, "type") == "Sequence")) return {component};
  const Json& steps = field_of(component, key);
  return steps.is_array() ? std::vector<Json>(steps.begin(), steps.end()) : std::vector<Json>{component};
}

inline std::string kind_of(const Json& component) {
  const Json& type = field_of(component, "type");
  return type.is_string() ? type.get<std::string>() : "without type";
}

[[noreturn]] inline void refuse_kind(std::string_view file, std::string_view part, std::string_view kind) {
  throw ProtocolError(
      fmt::format("{}: the {} {} is not supported: {}", file, part, excerpt(kind), kSupportedKinds));
}

/// Reads tokenizer.json's `model`, a BPE.
inline VocabularyReader read_bpe_model(const Json& model, const std::string& file) {
  const Json& merges = field_of(model, "merges");
  // Files of tokenizers before 0.10 have no type; only BPE has merges.
  if (kind_of(model) != "BPE" && !(field_of(model, "type").is_null() && merges.is_array()))
    refuse_kind(file, "model", kind_of(model));
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix", "dropout", "byte_fallback"}) {
    const Json& value = field_of(model, key);
    require<ProtocolError>(value.is_null() || value == "" || value == 0 || value == false,
                           "{}: model.{} is {}, which is not supported: only a BPE without it is", file, key,
                           excerpt(value.dump()));
  }
  require<ProtocolError>(merges.is_array(), "{}: model.merges is not a list", file);

  VocabularyReader vocabulary(field_of(model, "vocab"), file, "model.vocab");
  for (std::size_t i = 0; i < merges.size(); ++i) {
    const Json& rule = merges[i];
    if (rule.is_string()) {
      vocabulary.add_merge(rule.text(), file, "model.merges entry", i);
      continue;
    }
    require<ProtocolError>(rule.is_array() && rule.size() == 2 && rule[0].is_string() && rule[1].is_string(),
                           "{}: model.merges entry {} is neither \"a b\" nor [\"a\", \"b\"]", file, i);
    vocabulary.add_merge(rule[0].text(), rule[1].text(), file, "model.merges entry", i);
  }
  return vocabulary;
}

/// Reads tokenizer.json's `added_tokens` and makes sure that the vocabulary has them.
inline std::vector<AddedToken> read_added_tokens(const Json& list, const std::string& file,
                                                 VocabularyReader& vocabulary) {
  require<ProtocolError>(list.is_null() || list.is_array(), "{}: added_tokens is not a list", file);
  std::vector<AddedToken> tokens;
  for (std::size_t i = 0; i < list.size(); ++i) {
    const std::string field = fmt::format("added_tokens entry {}", i);
    const Json& content = field_of(list[i], "content");
    require<ProtocolError>(content.is_string(), "{}: {} has no content", file, field);
    const auto flag = [&](std::string_view key) { return read_flag(list[i], key, file).value_or(false); };
    AddedToken token{.id = read_token_id(field_of(list[i], "id"), file, field + "'s id"),
                     .content = content.get<std::string>(),
                     .single_word = flag("single_word"),
                     .lstrip = flag("lstrip"),
                     .rstrip = flag("rstrip"),
                     .normalized = flag("normalized")};
    vocabulary.add(token.content, token.id, file);
    tokens.push_back(std::move(token));
  }
  return tokens;
}

/// The token that tokenizer.json's `post_processor` puts before a text, if any.
inline std::optional<std::int32_t> read_begin_token(const Json& post_processor, const std::string& file) {
  std::optional<std::int32_t> begin;
  for (const Json& step : steps_of(post_processor, "processors")) {
    if (kind_of(step) == "ByteLevel") continue;
    require<ProtocolError>(kind_of(step) == "TemplateProcessing",
                           "{}: the post_processor {} is not supported: ByteLevel and TemplateProcessing are",
                           file, excerpt(kind_of(step)));
    const Json& single = field_of(step, "single");
    require<ProtocolError>(single.is_array(), "{}: post_processor.single is not a list", file);
    for (const Json& piece : single) {
      const Json& special = field_of(piece, "SpecialToken");
      if (special.is_null()) break;  // the text; what comes after it is no begin token
      const Json& name = field_of(special, "id");
      require<ProtocolError>(name.is_string(), "{}: post_processor.single names a special token without id",
                             file);
      const Json& ids = field_of(field_of(field_of(step, "special_tokens"), name.get<std::string>()), "ids");
      require<ProtocolError>(ids.is_array() && ids.size() == 1 && !begin,
                             "{}: the post_processor puts more or less than one token before a text", file);
      begin = read_token_id(ids[0], file, "post_processor.special_tokens");
    }
  }
  return begin;
}

/// What tokenizer.json holds.
struct TokenizerJson {
  VocabularyReader vocabulary;
  std::vector<AddedToken> added_tokens = {};
  bool add_prefix_space = false;
  bool split_words = true;
  bool ignore_merges = false;
  bool fuse_unknown = false;
  std::string unknown = {};                ///< empty: none
  std::optional<std::int32_t> begin = {};  ///< put before a text by the post-processor
};

/// Reads tokenizer.json.
/// \throws ProtocolError naming the field that is broken or of a kind that is not supported.
inline TokenizerJson read_tokenizer_json(const std::filesystem::path& path) {
  const std::string file = path.string();
  const Json root = read_json(path);
  require<ProtocolError>(root.is_object(), "{} is not a JSON object", file);
  for (const Json& step : steps_of(field_of(root, "normalizer"), "normalizers"))
    refuse_kind(file, "normalizer", kind_of(step));
  for (const Json& step : steps_of(field_of(root, "decoder"), "decoders"))
    if (kind_of(step) != "ByteLevel") refuse_kind(file, "decoder", kind_of(step));
  const auto splitters = steps_of(field_of(root, "pre_tokenizer"), "pretokenizers");
  for (const Json& step : splitters)
    if (kind_of(step) != "ByteLevel") refuse_kind(file, "pre_tokenizer", kind_of(step));
  if (splitters.size() != 1)
    refuse_kind(file, "pre_tokenizer", splitters.empty() ? "null" : "Sequence of several");

  const Json& model = field_of(root, "model");
  TokenizerJson read{.vocabulary = read_bpe_model(model, file)};
  read.added_tokens = read_added_tokens(field_of(root, "added_tokens"), file, read.vocabulary);
  read.add_prefix_space = read_flag(splitters[0], "add_prefix_space", file).value_or(true);
  read.split_words = read_flag(splitters[0], "use_regex", file).value_or(true);
  read.ignore_merges = read_flag(model, "ignore_merges", file).value_or(false);
  read.fuse_unknown = read_flag(model, "fuse_unk", file).value_or(false);
  if (const Json& unknown = field_of(model, "unk_token"); unknown.is_string())
    read.unknown = unknown.get<std::string>();
  read.begin = read_begin_token(field_of(root, "post_processor"), file);
  return read;
}

}  // namespace offsite::detail
