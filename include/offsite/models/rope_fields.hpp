#pragma once
#include <cmath>
#include <cstdint>
#include <set>
#include <string>

#include "offsite/core/error.hpp"
#include "offsite/io/json_value.hpp"
#include "offsite/models/config_fields.hpp"
#include "offsite/ops/rope.hpp"

namespace offsite::detail {

/// What a family calls the fields of its rotary embedding where they stand outside `rope_parameters`.
struct RopeSpelling {
  const char* theta = "rope_theta";
  const char* share = "partial_rotary_factor";  ///< of a head's features that turn
  double default_theta = 10000;
  double default_share = 1;
};

/// What one object of a configuration, called `holder` there, and the fields beside it say of a rotary embedding.
[[nodiscard]] inline RopeOptions read_rope_object(const ConfigFields& fields, const Json& own,
                                                  const std::string& holder, const RopeSpelling& spelling,
                                                  std::int64_t depth, std::int64_t context) {
  require<ProtocolError>(own.is_object(),
                         "{} of the model's configuration is a JSON {}, but it must be an object", holder,
                         own.type_name());
  const ConfigFields inner(own);

  RopeOptions rope;
  std::string type = "default";
  inner.read("type", type);
  inner.read("rope_type", type);
  try {
    rope.type = rope_type_of(type);
  } catch (const ArgumentError& error) {
    throw ProtocolError(std::string(holder) +
                        " of the model's configuration cannot be used: " + error.what());
  }
  rope.theta = spelling.default_theta;
  fields.read(spelling.theta, rope.theta);
  inner.read("rope_theta", rope.theta);
  double share = spelling.default_share;
  fields.read(spelling.share, share);
  inner.read("partial_rotary_factor", share);
  require<ProtocolError>(0 <= share && share <= 1,
                         "{} is {}, but the share of features that turn lies in [0, 1]", spelling.share,
                         share);
  rope.dims = static_cast<std::int64_t>(static_cast<double>(depth) * share);
  rope.context = context;
  if (rope.type == RopeType::kDefault) return rope;

  if (rope.type != RopeType::kDynamic) {
    fields.read("original_max_position_embeddings", rope.context);
    inner.read("original_max_position_embeddings", rope.context);
  }
  if (rope.type == RopeType::kYarn && !inner.has("factor"))
    rope.factor = static_cast<double>(context) / static_cast<double>(rope.context);
  else
    require<ProtocolError>(inner.has("factor"), "{} of the model's configuration lacks factor", holder);
  inner.read("factor", rope.factor);
  inner.read("low_freq_factor", rope.low_freq_factor);
  inner.read("high_freq_factor", rope.high_freq_factor);
  inner.read("beta_fast", rope.beta_fast);
  inner.read("beta_slow", rope.beta_slow);
  inner.read("attention_factor", rope.attention_factor);
  inner.read("mscale", rope.mscale);
  inner.read("mscale_all_dim", rope.mscale_all_dim);
  inner.read("truncate", rope.truncate);
  return rope;
}

[[nodiscard]] inline bool same_rope(const RopeOptions& a, const RopeOptions& b) {
  return a.type == b.type && a.theta == b.theta && a.dims == b.dims && a.factor == b.factor &&
         a.context == b.context && a.low_freq_factor == b.low_freq_factor &&
         a.high_freq_factor == b.high_freq_factor && a.beta_fast == b.beta_fast &&
         a.beta_slow == b.beta_slow && a.attention_factor == b.attention_factor && a.mscale == b.mscale &&
         a.mscale_all_dim == b.mscale_all_dim && a.truncate == b.truncate;
}

/// Whether an object holds a rotary embedding for each type of layer, rather than one for all.
[[nodiscard]] inline bool is_rope_by_layer_type(const Json& own) {
  if (!own.is_object()) return false;
  for (const auto& [type, value] : own.items())
    if (type.ends_with("_attention")) return true;
  return false;
}

/// The types of layers that a configuration uses, each once: what `layer_types` names, else all that `own` describes.
[[nodiscard]] inline std::set<std::string> used_layer_types(const Json& json, const Json& own) {
  std::set<std::string> used;
  const auto* types = json.find("layer_types");
  if (types != nullptr && types->is_array())
    for (const Json& type : *types) {
      require<ProtocolError>(type.is_string(),
                             "layer_types of the model's configuration holds {}, which is no text",
                             text_of(type));
      used.insert(type.text());
    }
  if (used.empty())
    for (const auto& [type, value] : own.items()) used.insert(type);
  return used;
}

/// The rotary embedding that a configuration describes: in `rope_parameters`, as newer files do, one for all layers or
/// one for each type of them, or in fields of their own and `rope_scaling`. Values are as they stand there:
/// `RopeOptions::check` says whether they can be.
/// \param depth    width of one head
/// \param context  tokens that the model's configuration allows
/// \throws ProtocolError for a field of the wrong type, an unknown type of embedding, or layers of which some turn in
///         another way.
[[nodiscard]] inline RopeOptions read_rope(const Json& json, const RopeSpelling& spelling, std::int64_t depth,
                                           std::int64_t context) {
  const ConfigFields fields(json);
  const std::string holder = fields.has("rope_scaling") ? "rope_scaling" : "rope_parameters";
  const Json own = fields.has(holder.c_str()) ? json.at(holder) : Json::object();
  if (!is_rope_by_layer_type(own)) return read_rope_object(fields, own, holder, spelling, depth, context);

  RopeOptions rope;
  const auto used = used_layer_types(json, own);
  for (const auto& type : used) {
    require<ProtocolError>(own.contains(type),
                           "{} of the model's configuration lacks {}, which layer_types names", holder,
                           text_of(type));
    const auto here =
        read_rope_object(fields, own.at(type), holder + "[" + text_of(type) + "]", spelling, depth, context);
    if (type == *used.begin()) rope = here;
    require<ProtocolError>(
        same_rope(rope, here),
        "{} of the model's configuration differs between {} and {}, but all layers must turn alike", holder,
        text_of(*used.begin()), text_of(type));
  }
  return rope;
}

/// Sets what `read_rope` reads, in the spelling that `json` has; a configuration that says the same stays as it is.
inline void write_rope(Json& json, const RopeOptions& rope, const RopeSpelling& spelling, std::int64_t depth,
                       std::int64_t context) {
  const bool older =
      json.contains(spelling.theta) || json.contains(spelling.share) || json.contains("rope_scaling");
  const bool newer = json.contains("rope_parameters");
  if ((older || newer) && same_rope(read_rope(json, spelling, depth, context), rope)) return;

  constexpr const char* kNames[] = {"default", "linear", "dynamic", "llama3", "yarn"};
  const auto share = static_cast<double>(rope.dims) / static_cast<double>(depth);
  Json own = Json::object();
  own["rope_type"] = kNames[static_cast<int>(rope.type)];
  if (rope.type != RopeType::kDefault) own["factor"] = rope.factor;
  if (rope.type == RopeType::kLlama3 || rope.type == RopeType::kYarn)
    own["original_max_position_embeddings"] = rope.context;
  if (rope.type == RopeType::kLlama3) {
    own["low_freq_factor"] = rope.low_freq_factor;
    own["high_freq_factor"] = rope.high_freq_factor;
  }
  if (rope.type == RopeType::kYarn) {
    own["beta_fast"] = rope.beta_fast;
    own["beta_slow"] = rope.beta_slow;
    if (rope.attention_factor > 0) own["attention_factor"] = rope.attention_factor;
    if (rope.mscale != 0) own["mscale"] = rope.mscale;
    if (rope.mscale_all_dim != 0) own["mscale_all_dim"] = rope.mscale_all_dim;
    own["truncate"] = rope.truncate;
  }
  if (older) {
    json[spelling.theta] = rope.theta;
    if (json.contains(spelling.share) || rope.dims != depth) json[spelling.share] = share;
    json["rope_scaling"] = rope.type == RopeType::kDefault ? Json() : own;
    json.erase("rope_parameters");
  } else {
    own["rope_theta"] = rope.theta;
    own["partial_rotary_factor"] = share;
    Json& held = json["rope_parameters"];
    if (is_rope_by_layer_type(held))
      for (const auto& type : used_layer_types(json, held)) held[type] = own;
    else
      held = own;
  }
}

}  // namespace offsite::detail
