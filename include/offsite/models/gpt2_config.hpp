#pragma once
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>

#include "offsite/core/error.hpp"
#include "offsite/io/json_value.hpp"
#include "offsite/models/config_fields.hpp"
#include "offsite/models/read_config.hpp"
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
    const double by_width = scale_attn_weights ? detail::attention_scale_of(head_width()) : 1.0;
    return scale_attn_by_inverse_layer_idx ? by_width / static_cast<double>(index + 1) : by_width;
  }

  /// Standard deviation of a random weight: residual projections shrink with the depth.
  [[nodiscard]] double initial_deviation(std::string_view name) const {
    return name.ends_with("c_proj.weight") ? initializer_range / std::sqrt(2.0 * static_cast<double>(n_layer))
                                           : initializer_range;
  }

  template <class Self, class F>
  static void fields(Self& c, F&& f) {
    f("n_layer", c.n_layer);
    f("n_head", c.n_head);
    f("n_embd", c.n_embd);
    f("n_positions", c.n_positions, "n_ctx");
    f("layer_norm_epsilon", c.layer_norm_epsilon);
    f("activation_function", c.activation_function);
    f("scale_attn_weights", c.scale_attn_weights);
    f("scale_attn_by_inverse_layer_idx", c.scale_attn_by_inverse_layer_idx);
    f("reorder_and_upcast_attn", c.reorder_and_upcast_attn);
    f("attn_pdrop", c.attn_pdrop);
    f("resid_pdrop", c.resid_pdrop);
    f("embd_pdrop", c.embd_pdrop);
    f("initializer_range", c.initializer_range);
    detail::shared_fields(c, f);
  }

  /// \throws ArgumentError for a value that no model can have, naming it.
  void check() const {
    detail::check_sizes(*this, "n_layer", "n_positions");
    detail::check_heads("n_embd", n_embd, "n_head", n_head);
    detail::check_within("n_inner", n_inner, 0, 16 * detail::kWidest);
    detail::check_within("bos_token_id", bos_token_id, -1, detail::kMostTokens);
    detail::check_within("eos_token_id", eos_token_id, -1, detail::kMostTokens);
    detail::check_rate("attn_pdrop", attn_pdrop);
    detail::check_rate("resid_pdrop", resid_pdrop);
    detail::check_rate("embd_pdrop", embd_pdrop);
    detail::check_epsilon("layer_norm_epsilon", layer_norm_epsilon);
    detail::check_deviation("initializer_range", initializer_range);
    (void)activation_of(activation_function);
  }

  /// \throws ProtocolError for a field of the wrong type, out of range, missing, or asking for what is not
  /// supported.
  [[nodiscard]] static Gpt2Config from_json(const Json& json) {
    Gpt2Config c;
    detail::read_fields(c, json, "gpt2", {"n_layer", "n_head", "n_embd", "n_positions", "vocab_size"});
    const detail::ConfigFields fields(json);
    fields.read("n_positions", c.n_positions);  // counts where files name both
    detail::refuse_field(fields, "add_cross_attention", "models with cross-attention are not supported");
    fields.read("n_inner", c.n_inner);
    require<ProtocolError>(!fields.has("n_inner") || c.n_inner > 0,
                           "n_inner is {}, but it must be positive, or null for four times n_embd",
                           c.n_inner);
    fields.read("bos_token_id", c.bos_token_id);
    fields.read("eos_token_id", c.eos_token_id);
    detail::check_read(c);
    return c;
  }

  /// `source` with every field above set to its present value.
  [[nodiscard]] Json to_json() const {
    Json json = detail::written_fields(*this, "gpt2", "GPT2LMHeadModel");
    const auto or_null = [](std::int64_t value, std::int64_t none) {
      return value == none ? Json() : Json(value);
    };
    json["n_inner"] = or_null(n_inner, 0);
    json["n_positions"] = n_positions;
    json["bos_token_id"] = or_null(bos_token_id, -1);
    json["eos_token_id"] = or_null(eos_token_id, -1);
    return json;
  }
};

}  // namespace offsite
