#pragma once
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/data/bpe_model.hpp"
#include "offsite/data/tokenizer_steps.hpp"
#include "offsite/data/tokenizer_vocabulary.hpp"
#include "offsite/io/json.hpp"

namespace offsite::detail {

/// Reads tokenizer.json's `model`, a BPE.
inline VocabularyReader read_bpe_model(const Json& model, const std::string& file) {
  const Json& merges = field_of(model, "merges");
  // Files of tokenizers before 0.10 have no type; only BPE has merges.
  if (kind_of(model) != "BPE" && !(field_of(model, "type").is_null() && merges.is_array()))
    refuse_kind(file, "model", kind_of(model));
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix", "dropout"}) {
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
    const std::string field = formatted("added_tokens entry {}", i);
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
  for (const Json& step : steps_of(post_processor, "processors", file)) {
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
  BpeParts parts;                          ///< all but begin and end token
  std::optional<std::int32_t> begin = {};  ///< put before a text by the post-processor
  VocabularyReader vocabulary;             ///< finds ids; its parts are taken
};

/// Reads tokenizer.json; `prefix_space` is what tokenizer_config.json says of add_prefix_space.
/// \throws ProtocolError naming the field that is broken or of a kind that is not supported.
inline TokenizerJson read_tokenizer_json(const std::filesystem::path& path,
                                         std::optional<bool> prefix_space) {
  const std::string file = path.string();
  const Json root = read_json(path);
  require<ProtocolError>(root.is_object(), "{} is not a JSON object", file);
  auto normalizer = read_normalizer(field_of(root, "normalizer"), file);
  auto pre_tokenizer = read_pre_tokenizer(field_of(root, "pre_tokenizer"), file, prefix_space);
  const bool byte_level = pre_tokenizer.byte_level;
  auto decoder = read_decoder(field_of(root, "decoder"), file, byte_level);

  const Json& model = field_of(root, "model");
  VocabularyReader vocabulary = read_bpe_model(model, file);
  auto added_tokens = read_added_tokens(field_of(root, "added_tokens"), file, vocabulary);
  const bool byte_fallback = read_flag(model, "byte_fallback", file).value_or(false);

  BpeParts parts = byte_level ? vocabulary.take() : vocabulary.take_by_character(byte_fallback);
  for (std::size_t id = 0; id < parts.spellings.size(); ++id)
    parts.tokens[id].bytes = decoder.bytes_of(parts.spellings[id]);
  std::string storage;
  for (const AddedToken& token : added_tokens) {  // Hugging Face's decode them to what they are found as
    if (!token.normalized) continue;
    const std::string text(normalizer.apply(token.content, storage));
    parts.tokens[static_cast<std::size_t>(token.id)].bytes = byte_level ? text : decoder.bytes_of(text);
  }
  const bool every_byte = std::find(parts.bytes.begin(), parts.bytes.end(), -1) == parts.bytes.end();
  require<ProtocolError>(
      !byte_level || !byte_fallback || every_byte,
      "{}: model.byte_fallback is true, which goes with ByteLevel only if every byte has a token", file);
  parts.added_tokens = std::move(added_tokens);
  parts.normalizer = std::move(normalizer);
  parts.splitter = TextSplitter(std::move(pre_tokenizer.steps));
  parts.ignore_merges = read_flag(model, "ignore_merges", file).value_or(false);
  parts.fuse_unknown = read_flag(model, "fuse_unk", file).value_or(false);
  if (const Json& unknown = field_of(model, "unk_token"); unknown.is_string())
    parts.unknown = vocabulary.find(unknown.text());
  parts.drops_spaces = decoder.drops_spaces;
  parts.drops_marker = decoder.drops_marker;
  const auto begin = read_begin_token(field_of(root, "post_processor"), file);
  return {std::move(parts), begin, std::move(vocabulary)};
}

}  // namespace offsite::detail
