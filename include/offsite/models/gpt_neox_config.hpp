#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "offsite/core/error.hpp"
#include "offsite/io/json_value.hpp"
#include "offsite/models/read_config.hpp"
#include "offsite/models/rope_fields.hpp"
#include "offsite/ops/activation.hpp"
#include "offsite/ops/rope.hpp"

namespace offsite {

/// The `config.json` of a GPT-NeoX model, Pythia among them, under Hugging Face's names. Fields it does not know
/// survive in `source`.
struct GptNeoxConfig {
  std::int64_t num_hidden_layers = 44;    ///< blocks of the full model
  std::int64_t num_attention_heads = 64;  ///< divides hidden_size
  std::int64_t hidden_size = 6144;
  std::int64_t intermediate_size = 24576;       ///< width of the feed-forward part
  std::int64_t max_position_embeddings = 2048;  ///< context length in tokens
  std::int64_t vocab_size = 50432;
  std::string hidden_act = "gelu";    ///< see `activation_of`
  bool use_parallel_residual = true;  ///< attention and feed-forward both start from the block's input
  bool attention_bias = true;         ///< linear layers of attention have biases
  bool tie_word_embeddings = false;   ///< the head is the token embedding
  double layer_norm_eps = 1e-5;
  double hidden_dropout = 0;          ///< of what attention and feed-forward add, in [0, 1)
  double attention_dropout_rate = 0;  ///< `attention_dropout`, in [0, 1)
  double initializer_range = 0.02;    ///< standard deviation of random weights
  RopeOptions rope{};  ///< from `rope_parameters`, or `rotary_pct`, `rotary_emb_base`, `rope_scaling`
  std::string dtype = "float32";  ///< of the checkpoint's tensors, as its configuration says
  Json source = Json::object();

  [[nodiscard]] std::int64_t num_blocks() const { return num_hidden_layers; }
  [[nodiscard]] std::int64_t context_length() const { return max_position_embeddings; }  ///< in tokens
  [[nodiscard]] std::int64_t vocabulary_size() const { return vocab_size; }
  [[nodiscard]] double attention_dropout() const { return attention_dropout_rate; }
  [[nodiscard]] double residual_dropout() const { return hidden_dropout; }
  [[nodiscard]] std::int64_t head_width() const { return hidden_size / num_attention_heads; }
  [[nodiscard]] double attention_scale() const { return detail::attention_scale_of(head_width()); }
  /// Standard deviation of a random weight.
  [[nodiscard]] double initial_deviation(std::string_view) const { return initializer_range; }

  template <class Self, class F>
  static void fields(Self& c, F&& f) {
    detail::common_fields(c, f);
    f("intermediate_size", c.intermediate_size);
    f("hidden_act", c.hidden_act);
    f("use_parallel_residual", c.use_parallel_residual);
    f("attention_bias", c.attention_bias);
    f("layer_norm_eps", c.layer_norm_eps);
    f("hidden_dropout", c.hidden_dropout);
    f("initializer_range", c.initializer_range);
  }

  /// \throws ArgumentError for a value that no model can have, naming it.
  void check() const {
    detail::check_common(*this);
    detail::check_heads("hidden_size", hidden_size, "num_attention_heads", num_attention_heads);
    detail::check_within("intermediate_size", intermediate_size, 1, 16 * detail::kWidest);
    detail::check_epsilon("layer_norm_eps", layer_norm_eps);
    detail::check_rate("hidden_dropout", hidden_dropout);
    detail::check_deviation("initializer_range", initializer_range);
    (void)activation_of(hidden_act);
    rope.check();
    require(rope.turned() <= head_width(), "{} features of a head turn, but heads are {} wide", rope.turned(),
            head_width());
  }

  /// \throws ProtocolError for a field of the wrong type, out of range, missing, or asking for what is not supported.
  [[nodiscard]] static GptNeoxConfig from_json(const Json& json) {
    GptNeoxConfig c;
    detail::read_fields(c, json, "gpt_neox",
                        {"num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size",
                         "max_position_embeddings", "vocab_size"});
    c.rope.dims = 0;
    detail::check_read(c);  // the width of heads, before it is used
    c.rope = detail::read_rope(json, kRope, c.head_width(), c.max_position_embeddings);
    detail::check_read(c);
    return c;
  }

  /// `source` with every field above set to its present value.
  [[nodiscard]] Json to_json() const {
    Json json = detail::written_fields(*this, "gpt_neox", "GPTNeoXForCausalLM");
    detail::write_rope(json, rope, kRope, head_width(), max_position_embeddings);
    return json;
  }

 private:
  static constexpr detail::RopeSpelling kRope{"rotary_emb_base", "rotary_pct", 10000, 0.25};
};

}  // namespace offsite
