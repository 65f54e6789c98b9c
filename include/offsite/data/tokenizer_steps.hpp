#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/core/utf8.hpp"
#include "offsite/data/byte_alphabet.hpp"
#include "offsite/data/text_normalizer.hpp"
#include "offsite/data/text_splitter.hpp"
#include "offsite/data/tokenizer_vocabulary.hpp"
#include "offsite/io/json_value.hpp"

namespace offsite::detail {

inline constexpr std::string_view kSupportedKinds =
    "supported are the model BPE, the normalizers NFC, Prepend and Replace, the pre_tokenizers ByteLevel, "
    "Split, "
    "Digits and Metaspace, the decoders ByteLevel, Replace, ByteFallback, Fuse, Strip and Metaspace, and "
    "Sequences "
    "of these";

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

/// A text in a file that is not empty and has at most `max_bytes`. \throws ProtocolError if it is something else.
inline std::string read_text(const Json& from, std::string_view key, std::string_view file,
                             std::size_t max_bytes) {
  const Json& value = field_of(from, key);
  require<ProtocolError>(value.is_string() && !value.text().empty() && value.text().size() <= max_bytes,
                         "{}: {} is {}, but must be a text of 1 to {} bytes", file, key,
                         excerpt(value.dump()), max_bytes);
  return value.text();
}

inline std::string kind_of(const Json& component) {
  const Json& type = field_of(component, "type");
  return type.is_string() ? type.text() : "without type";
}

[[noreturn]] inline void refuse_kind(std::string_view file, std::string_view part, std::string_view kind) {
  throw ProtocolError(
      formatted("{}: the {} {} is not supported: {}", file, part, excerpt(kind), kSupportedKinds));
}

/// The steps of a tokenizer.json component: those of a Sequence, which its `key` lists, or the component itself.
/// \throws ProtocolError if there are more than 16, far more than any published file has.
inline std::vector<Json> steps_of(const Json& component, std::string_view key, std::string_view file) {
  if (component.is_null()) return {};
  const Json& steps = field_of(component, key);
  if (kind_of(component) != "Sequence" || !steps.is_array()) return {component};
  require<ProtocolError>(steps.size() <= 16, "{}: {} lists {} steps, but 16 are the most that is supported",
                         file, key, steps.size());
  return {steps.begin(), steps.end()};
}

/// What Split and Replace look for, if it is a text. \throws ProtocolError if it is an expression or nothing.
inline std::string read_plain_pattern(const Json& step, std::string_view part, std::string_view file) {
  const Json& pattern = field_of(step, "pattern");
  require<ProtocolError>(field_of(pattern, "String").is_string(),
                         "{}: the {} {} looks for {}, but only a String is supported there", file, part,
                         kind_of(step), excerpt(pattern.dump()));
  return read_text(pattern, "String", file, 64);
}

/// Reads tokenizer.json's `normalizer`.
inline TextNormalizer read_normalizer(const Json& normalizer, std::string_view file) {
  using Kind = NormalizerStep::Kind;
  std::vector<NormalizerStep> steps;
  std::size_t replacements = 0;
  for (const Json& step : steps_of(normalizer, "normalizers", file)) {
    const std::string kind = kind_of(step);
    if (kind == "NFC") {
      steps.push_back({.kind = Kind::kNfc});
    } else if (kind == "Prepend") {
      steps.push_back({.kind = Kind::kPrepend, .to = read_text(step, "prepend", file, 64)});
    } else if (kind == "Replace") {
      steps.push_back({.kind = Kind::kReplace,
                       .from = read_plain_pattern(step, "normalizer", file),
                       .to = field_of(step, "content").get<std::string>()});
      // A file must not make a short text fill the memory: each replacement may multiply its length.
      replacements += 1;
      require<ProtocolError>(
          replacements <= 4 && steps.back().to.size() <= 4 * steps.back().from.size(),
          "{}: the normalizer lets texts grow too much: more than four Replace steps, or one that "
          "writes more than four times what it reads",
          file);
    } else {
      refuse_kind(file, "normalizer", kind);
    }
  }
  return TextNormalizer(std::move(steps));
}

inline SplitBehavior read_behavior(const Json& step, std::string_view file) {
  using enum SplitBehavior;
  const std::string name = field_of(step, "behavior").get<std::string>();
  for (const auto& [text, behavior] :
       {std::pair{"Isolated", kIsolated}, std::pair{"Removed", kRemoved},
        std::pair{"Contiguous", kContiguous}, std::pair{"MergedWithPrevious", kMergedWithPrevious},
        std::pair{"MergedWithNext", kMergedWithNext}})
    if (name == text) return behavior;
  throw ProtocolError(
      formatted("{}: the pre_tokenizer Split has the behavior {}, which is not known", file, excerpt(name)));
}

inline SplitStep read_split(const Json& step, std::string_view file) {
  SplitStep split{.behavior = read_behavior(step, file),
                  .invert = read_flag(step, "invert", file).value_or(false)};
  const Json& expression = field_of(field_of(step, "pattern"), "Regex");
  if (!expression.is_string()) {
    split.kind = SplitStep::Kind::kText;
    split.text = read_plain_pattern(step, "pre_tokenizer", file);
    return split;
  }
  const auto pattern = pattern_spelled(expression.text());
  require<ProtocolError>(
      pattern.has_value(),
      "{}: the pre_tokenizer Split looks for the regular expression {}, but only those of GPT-2, "
      "Llama 3, Qwen 2, BLOOM and \\p{{N}} are supported, as their files spell them",
      file, excerpt(expression.text()));
  split.pattern = *pattern;
  return split;
}

/// A text that Metaspace writes for spaces, and whether it stands before a text.
inline std::pair<std::string, SplitStep::Prefix> read_metaspace(const Json& step, std::string_view file) {
  using Prefix = SplitStep::Prefix;
  std::string marker = read_text(step, "replacement", file, 4);
  require<ProtocolError>(first_code_point(marker).bytes == marker.size() && marker != " ",
                         "{}: Metaspace writes {} for a space, but must write one other character", file,
                         excerpt(marker));
  const Json& scheme = field_of(step, "prepend_scheme");
  if (scheme.is_null()) {  // files of tokenizers before 0.15
    const bool always = read_flag(step, "add_prefix_space", file).value_or(true);
    return {std::move(marker), always ? Prefix::kAlways : Prefix::kNever};
  }
  for (const auto& [text, prefix] : {std::pair{"always", Prefix::kAlways}, std::pair{"first", Prefix::kFirst},
                                     std::pair{"never", Prefix::kNever}})
    if (scheme == text) return {std::move(marker), prefix};
  throw ProtocolError(
      formatted("{}: Metaspace has the prepend_scheme {}, but always, first and never are known", file,
                excerpt(scheme.dump())));
}

/// tokenizer.json's `pre_tokenizer`.
struct PreTokenizer {
  std::vector<SplitStep> steps = {};
  bool byte_level = false;  ///< the vocabulary spells bytes in GPT-2's alphabet
};

/// Reads tokenizer.json's `pre_tokenizer`; `prefix_space` overrides what a lone ByteLevel says.
inline PreTokenizer read_pre_tokenizer(const Json& component, std::string_view file,
                                       std::optional<bool> prefix_space) {
  using Kind = SplitStep::Kind;
  PreTokenizer read;
  for (const Json& step : steps_of(component, "pretokenizers", file)) {
    const std::string kind = kind_of(step);
    require<ProtocolError>(!read.byte_level,
                           "{}: the pre_tokenizer {} comes after ByteLevel, which must be the last", file,
                           excerpt(kind));
    if (kind == "ByteLevel") {
      const bool adds = read_flag(step, "add_prefix_space", file).value_or(true);
      const bool is_lone = kind_of(component) == "ByteLevel";
      if (is_lone ? prefix_space.value_or(adds) : adds) read.steps.push_back({.kind = Kind::kPrefixSpace});
      if (read_flag(step, "use_regex", file).value_or(true)) read.steps.push_back({});
      read.byte_level = true;
    } else if (kind == "Split") {
      read.steps.push_back(read_split(step, file));
    } else if (kind == "Digits") {
      const bool each = read_flag(step, "individual_digits", file).value_or(false);
      read.steps.push_back({.pattern = each ? SplitPattern::kDigit : SplitPattern::kDigits});
    } else if (kind == "Metaspace") {
      auto [marker, prefix] = read_metaspace(step, file);
      read.steps.push_back({.kind = Kind::kMetaspace, .text = marker, .prefix = prefix});
      if (read_flag(step, "split", file).value_or(true))
        read.steps.push_back(
            {.kind = Kind::kText, .behavior = SplitBehavior::kMergedWithNext, .text = marker});
    } else {
      refuse_kind(file, "pre_tokenizer", kind);
    }
  }
  return read;
}

/// tokenizer.json's `decoder`, as far as it is not GPT-2's byte alphabet.
struct TokenDecoder {
  std::vector<std::pair<std::string, std::string>> replaces = {};
  bool byte_tokens = false;       ///< "<0x0A>" is a byte
  std::int64_t drops_spaces = 0;  ///< see BpeParts
  std::string drops_marker = {};

  /// What a token stands for in the middle of a text.
  [[nodiscard]] std::string bytes_of(const std::string& token) const {
    const auto byte = byte_tokens ? byte_of_token(token) : std::nullopt;
    if (byte) return {static_cast<char>(*byte)};
    std::string bytes = token;
    for (const auto& [from, to] : replaces) bytes = replaced(bytes, from, to);
    return bytes;
  }
};

/// Reads tokenizer.json's `decoder`.
inline TokenDecoder read_decoder(const Json& component, std::string_view file, bool byte_level) {
  TokenDecoder decoder;
  bool fused = false;
  const auto steps = steps_of(component, "decoders", file);
  require<ProtocolError>(byte_level || !steps.empty(), "{} has no decoder, and would lose where words begin",
                         file);
  for (const Json& step : steps) {
    const std::string kind = kind_of(step);
    const bool is_one = !byte_level && kind_of(component) == "Metaspace";
    if (byte_level ? kind != "ByteLevel" : kind == "ByteLevel") {
      refuse_kind(file, byte_level ? "decoder" : "decoder without the same pre_tokenizer", kind);
    } else if (kind == "Replace") {
      decoder.replaces.emplace_back(read_plain_pattern(step, "decoder", file),
                                    field_of(step, "content").get<std::string>());
      require<ProtocolError>(
          decoder.replaces.size() <= 4 && decoder.replaces.back().second.size() <= 16,
          "{}: the decoder has more than four Replace steps, or one that writes more than 16 bytes", file);
    } else if (kind == "ByteFallback") {
      decoder.byte_tokens = true;
    } else if (kind == "Fuse") {
      fused = true;
    } else if (kind == "Strip") {
      const Json &start = field_of(step, "start"), &stop = field_of(step, "stop");
      require<ProtocolError>(
          fused && field_of(step, "content") == " " && stop == 0 && start.holds<std::int32_t>(),
          "{}: the decoder Strip is supported only after Fuse, for spaces at the beginning", file);
      decoder.drops_spaces = start.get<std::int32_t>();
    } else if (kind == "Metaspace" && is_one) {
      auto [marker, prefix] = read_metaspace(step, file);
      decoder.replaces.emplace_back(marker, " ");
      if (prefix != SplitStep::Prefix::kNever) decoder.drops_marker = std::move(marker);
    } else if (kind != "ByteLevel") {
      refuse_kind(file, "decoder", kind);
    }
  }
  return decoder;
}

}  // namespace offsite::detail
