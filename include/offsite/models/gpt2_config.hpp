#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>

#include "offsite/core/error.hpp"
#include "offsite/io/json_value.hpp"
#include "offsite/models/config_fields.hpp"
#include "offsite/ops/activation.hpp"

namespace offsite {

/// The `config.json` of a GPT-2 model, under Hugging Face's names. Fields it does not know survive in
/// `source`.
struct Gpt2Config {
  std::int64_t n_layer = 12;        ///< blocks of the full model
  std::int64_t n_head = 12;         ///< divides n_embd
  std::int64_t n_embd = 768;        ///< hidden width
  std::int64_t n_inner = 0;         ///< width of the feed-forward part; 0 = 4 n_embd
  std::int64_t n_positions = 1024;  ///< context length in tokens
  std::int64_t vocab_size = 50257;
  double layer_norm_epsilon = 1e-5;
  std::string activation_function = "gelu_new";  ///< see `activation_of`
  bool scale_attn_weights = true;                ///< divide attention scores by sqrt(n_embd / n_head)
  bool scale_attn_by_inverse_layer_idx = false;  ///< and by the block's number + 1
  bool reorder_and_upcast_attn = false;          ///< scores in float32: done here always
  bool tie_word_embeddings = true;               ///< the head is the token embedding
  double attn_pdrop = 0.1;                       ///< dropout rates, in [0, 1)
  double resid_pdrop = 0.1;
  double embd_pdrop = 0.1;
  double initializer_range = 0.02;  ///< standard deviation of random weights
  std::int64_t bos_token_id = -1;   ///< -1 = none
  std::int64_t eos_token_id = -1;   ///< -1 = none
  std::string dtype = "float32";    ///< of the checkpoint's tensors, as its configuration says
  Json source = Json::object();

  [[nodiscard]] std::int64_t num_blocks() const { return n_layer; }
  [[nodiscard]] std::int64_t context_length() const { return n_positions; }  ///< in tokens
  [[nodiscard]] std::int64_t vocabulary_size() const { return vocab_size; }
  [[nodiscard]] double attention_dropout() const { return attn_pdrop; }
  [[nodiscard]] double residual_dropout() const { return resid_pdrop; }
  [[nodiscard]] std::int64_t inner_width() const { return n_inner == 0 ? 4 * n_embd : n_inner; }
  [[nodiscard]] std::int64_t head_width() const { return n_embd / n_head; }
  /// What block `index` multiplies its attention scores by.
  [[nodiscard]] double attention_scale(std::int64_t index) const {
    const double by_width = scale_attn_weights ? 1.0 / std::sqrt(static_cast<double>(head_width())) : 1.0;
    return scale_attn_by_inverse_layer_idx ? by_width / static_cast<double>(index + 1) : by_width;
  }

  /// Standard deviation of a random weight: residual projections shrink with the depth.
  [[nodiscard]] double initial_deviation(std::string_view name) const {
    return name.ends_with("c_proj.weight") ? initializer_range / std::sqrt(2.0 * static_cast<double>(n_layer))
                                           : initializer_range;
  }

  /// \throws ArgumentError for a value that no model can have, naming it.
  void check() const {
    constexpr std::int64_t kWidest = 1 << 20, kMost = 1 << 28;
    const auto within = [](const char* name, std::int64_t value, std::int64_t least, std::int64_t most) {
      require(least <= value && value <= most, "{} is {}, but it must lie in {} to {}", name, value, least,
              most);
    };
    within("n_layer", n_layer, 1, 100'000);
    within("n_embd", n_embd, 1, kWidest);
    within("n_head", n_head, 1, n_embd);
    within("n_inner", n_inner, 0, 16 * kWidest);
    within("n_positions", n_positions, 1, kMost);
    within("vocab_size", vocab_size, 1, kMost);
    within("bos_token_id", bos_token_id, -1, kMost);
    within("eos_token_id", eos_token_id, -1, kMost);
    require(n_embd % n_head == 0, "n_embd is {}, which does not divide into n_head = {} heads", n_embd,
            n_head);
    const auto rate = [](const char* name, double value) {
      require(0 <= value && value < 1, "{} is {}, but a dropout rate lies in [0, 1)", name, value);
    };
    rate("attn_pdrop", attn_pdrop);
    rate("resid_pdrop", resid_pdrop);
    rate("embd_pdrop", embd_pdrop);
    require(0 < layer_norm_epsilon && layer_norm_epsilon <= 1,
            "layer_norm_epsilon is {}, but it must lie in (0, 1]", layer_norm_epsilon);
    require(0 <= initializer_range && initializer_range <= 100,
            "initializer_range is {}, but it must lie in [0, 100]", initializer_range);
    (void)activation_of(activation_function);
  }

  /// \throws ProtocolError for a field of the wrong type, out of range, missing, or asking for what is not
  /// supported.
  [[nodiscard]] static Gpt2Config from_json(const Json& json);

  /// `source` with every field above set to its present value.
  [[nodiscard]] Json to_json() const {
    Json json = source;
    const auto or_null = [](std::int64_t value, std::int64_t none) {
      return value == none ? Json() : Json(value);
    };
    if (!json.contains("architectures")) json["architectures"] = Json::array({"GPT2LMHeadModel"});
    json["model_type"] = "gpt2";
    json["n_layer"] = n_layer;
    json["n_head"] = n_head;
    json["n_embd"] = n_embd;
    json["n_inner"] = or_null(n_inner, 0);
    json["n_positions"] = n_positions;
    if (json.contains("n_ctx")) json["n_ctx"] = n_positions;
    json["vocab_size"] = vocab_size;
    json["layer_norm_epsilon"] = layer_norm_epsilon;
    json["activation_function"] = activation_function;
    json["scale_attn_weights"] = scale_attn_weights;
    json["scale_attn_by_inverse_layer_idx"] = scale_attn_by_inverse_layer_idx;
    json["reorder_and_upcast_attn"] = reorder_and_upcast_attn;
    json["tie_word_embeddings"] = tie_word_embeddings;
    json["attn_pdrop"] = attn_pdrop;
    json["resid_pdrop"] = resid_pdrop;
    json["embd_pdrop"] = embd_pdrop;
    json["initializer_range"] = initializer_range;
    json["bos_token_id"] = or_null(bos_token_id, -1);
    json["eos_token_id"] = or_null(eos_token_id, -1);
    json["torch_dtype"] = dtype;
    if (json.contains("dtype")) json["dtype"] = dtype;
    return json;
  }
};

inline Gpt2Config Gpt2Config::from_json(const Json& json) {
  const detail::ConfigFields fields(json);
  std::string type = "gpt2";
  fields.read("model_type", type);
  require<ProtocolError>(type == "gpt2",
                         "the configuration is of a model of type \"{}\", but \"gpt2\" is wanted", type);
  bool cross_attention = false;
  fields.read("add_cross_attention", cross_attention);
  require<ProtocolError>(!cross_attention,
                         "add_cross_attention is true, but models with cross-attention are not supported");

  Gpt2Config c;
  c.source = json;
  fields.read_required("n_layer", c.n_layer);
  fields.read_required("n_head", c.n_head);
  fields.read_required("n_embd", c.n_embd);
  fields.read_required("vocab_size", c.vocab_size);
  fields.read_required(fields.has("n_positions") ? "n_positions" : "n_ctx", c.n_positions);
  fields.read("n_inner", c.n_inner);
  require<ProtocolError>(!fields.has("n_inner") || c.n_inner > 0,
                         "n_inner is {}, but it must be positive, or null for four times n_embd", c.n_inner);
  fields.read("layer_norm_epsilon", c.layer_norm_epsilon);
  fields.read("activation_function", c.activation_function);
  fields.read("scale_attn_weights", c.scale_attn_weights);
  fields.read("scale_attn_by_inverse_layer_idx", c.scale_attn_by_inverse_layer_idx);
  fields.read("reorder_and_upcast_attn", c.reorder_and_upcast_attn);
  fields.read("tie_word_embeddings", c.tie_word_embeddings);
  fields.read("attn_pdrop", c.attn_pdrop);
  fields.read("resid_pdrop", c.resid_pdrop);
  fields.read("embd_pdrop", c.embd_pdrop);
  fields.read("initializer_range", c.initializer_range);
  fields.read("bos_token_id", c.bos_token_id);
  fields.read("eos_token_id", c.eos_token_id);
  fields.read("torch_dtype", c.dtype);
  fields.read("dtype", c.dtype);
  try {
    c.check();
  } catch (const ArgumentError& error) {  // the value is a file's, not the caller's
    throw ProtocolError(formatted("the model's configuration cannot be used: {}", error.what()));
  }
  return c;
}

}  // namespace offsite
