#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

#include "offsite/core/error.hpp"
#include "offsite/io/json_value.hpp"
#include "offsite/models/config_fields.hpp"

// What the configurations of model families share. Each is a struct of fields under Hugging Face's names, with
//
//   Config::fields(c, f)     calls f("name", c.field) for every field that is read and written as it stands, or
//                            f("name", c.field, "alias") for one that some files spell in another way
//   c.source                 the JSON object that it was read from
//   c.check()                \throws ArgumentError for a value that no model can have, naming it

namespace offsite::detail {

constexpr std::int64_t kWidest = 1 << 20, kMostTokens = 1 << 28;

inline void check_within(std::string_view name, std::int64_t value, std::int64_t least, std::int64_t most) {
  require(least <= value && value <= most, "{} is {}, but it must lie in {} to {}", name, value, least, most);
}
inline void check_rate(std::string_view name, double value) {
  require(0 <= value && value < 1, "{} is {}, but a dropout rate lies in [0, 1)", name, value);
}
inline void check_epsilon(std::string_view name, double value) {
  require(0 < value && value <= 1, "{} is {}, but it must lie in (0, 1]", name, value);
}
inline void check_deviation(std::string_view name, double value) {
  require(0 <= value && value <= 100, "{} is {}, but it must lie in [0, 100]", name, value);
}
inline void check_heads(std::string_view width_name, std::int64_t width, std::string_view name,
                        std::int64_t heads) {
  check_within(width_name, width, 1, kWidest);
  check_within(name, heads, 1, width);
  require(width % heads == 0, "{} is {}, which does not divide into {} = {} heads", width_name, width, name,
          heads);
}

/// Refuses a configuration that asks for what is not there. \throws ProtocolError if `field` is true.
inline void refuse_field(const ConfigFields& fields, const char* field, std::string_view reason) {
  bool asked = false;
  fields.read(field, asked);
  require<ProtocolError>(!asked, "{} of the model's configuration is true, but {}", field, reason);
}

/// The fields that all families call alike.
template <class Self, class F>
void shared_fields(Self& c, F& f) {
  f("vocab_size", c.vocab_size);
  f("tie_word_embeddings", c.tie_word_embeddings);
  f("torch_dtype", c.dtype, "dtype");
}

/// The fields that all families but the oldest call alike.
template <class Self, class F>
void common_fields(Self& c, F& f) {
  f("num_hidden_layers", c.num_hidden_layers);
  f("num_attention_heads", c.num_attention_heads);
  f("hidden_size", c.hidden_size);
  f("max_position_embeddings", c.max_position_embeddings);
  f("attention_dropout", c.attention_dropout_rate);
  shared_fields(c, f);
}

/// What attention multiplies its scores by: 1 / sqrt(width of a head).
[[nodiscard]] inline double attention_scale_of(std::int64_t head_width) {
  return 1.0 / std::sqrt(static_cast<double>(head_width));
}

/// Blocks, context and vocabulary, of which the first two have a name in each family. \throws ArgumentError
template <class Config>
void check_sizes(const Config& c, std::string_view blocks, std::string_view context) {
  check_within(blocks, c.num_blocks(), 1, 100'000);
  check_within(context, c.context_length(), 1, kMostTokens);
  check_within("vocab_size", c.vocab_size, 1, kMostTokens);
}

/// What holds of the common fields whatever the family. \throws ArgumentError
template <class Config>
void check_common(const Config& c) {
  check_sizes(c, "num_hidden_layers", "max_position_embeddings");
  check_within("hidden_size", c.hidden_size, 1, kWidest);
  check_within("num_attention_heads", c.num_attention_heads, 1, kWidest);
  check_rate("attention_dropout", c.attention_dropout_rate);
}

/// `c.check()` of a configuration that was read from a file. \throws ProtocolError
template <class Config>
void check_read(const Config& c) {
  try {
    c.check();
  } catch (const ArgumentError& error) {  // the value is a file's, not the caller's
    throw ProtocolError(std::string("the model's configuration cannot be used: ") + error.what());
  }
}

/// Reads every field that `json` has into `c`.
/// \throws ProtocolError for another model type, a field of another type, or a needed one that is missing.
template <class Config>
void read_fields(Config& c, const Json& json, std::string_view model_type,
                 std::initializer_list<std::string_view> needed) {
  const ConfigFields fields(json);
  std::string type(model_type);
  fields.read("model_type", type);
  require<ProtocolError>(type == model_type,
                         "the configuration is of a model of type \"{}\", but \"{}\" is wanted", type,
                         model_type);
  require<ProtocolError>(
      !fields.has("quantization_config"),
      "the model's configuration has a quantization_config, but quantised weights are not supported");
  c.source = json;
  Config::fields(c, [&](const char* name, auto& value, const char* alias = nullptr) {
    fields.read(name, value);
    if (alias != nullptr) fields.read(alias, value);
    const bool found = fields.has(name) || (alias != nullptr && fields.has(alias));
    require<ProtocolError>(found || std::find(needed.begin(), needed.end(), name) == needed.end(),
                           "the model's configuration lacks {}", name);
  });
}

/// `c.source` with every field set to its present value, in the source's spelling.
template <class Config>
[[nodiscard]] Json written_fields(const Config& c, std::string_view model_type,
                                  std::string_view architecture) {
  Json json = c.source;
  if (!json.contains("architectures")) json["architectures"].push_back(std::string(architecture));
  json["model_type"] = std::string(model_type);
  Config::fields(c, [&](const char* name, const auto& value, const char* alias = nullptr) {
    const bool other = alias != nullptr && json.contains(alias);
    if (other) json[alias] = value;
    if (!other || json.contains(name)) json[name] = value;
  });
  return json;
}

}  // namespace offsite::detail
