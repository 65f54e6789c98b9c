#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "offsite/core/error.hpp"
#include "offsite/io/json_value.hpp"
#include "offsite/models/read_config.hpp"
#include "offsite/ops/activation.hpp"

namespace offsite {

/// The `config.json` of an OPT model, under Hugging Face's names. Fields it does not know survive in `source`.
struct OptConfig {
  std::int64_t num_hidden_layers = 12;    ///< blocks of the full model
  std::int64_t num_attention_heads = 12;  ///< divides hidden_size
  std::int64_t hidden_size = 768;
  std::int64_t ffn_dim = 3072;                  ///< width of the feed-forward part
  std::int64_t max_position_embeddings = 2048;  ///< context length in tokens; the table has two rows more
  std::int64_t vocab_size = 50272;
  std::int64_t word_embed_proj_dim = 0;  ///< width of the token embedding; 0 = hidden_size
  std::string activation_function = "relu";
  bool do_layer_norm_before = true;  ///< false: norms after the sums, as in the model of 350M
  bool remove_final_layer_norm =
      false;                ///< `_remove_final_layer_norm`: there is none either way if norms follow
  bool enable_bias = true;  ///< linear layers of blocks have biases
  bool layer_norm_elementwise_affine = true;  ///< norms have weights and biases
  bool tie_word_embeddings = true;            ///< the head is the token embedding
  double dropout = 0.1;                       ///< of what attention and feed-forward add, in [0, 1)
  double attention_dropout_rate = 0;          ///< `attention_dropout`, in [0, 1)
  double init_std = 0.02;                     ///< standard deviation of random weights
  std::string dtype = "float32";              ///< of the checkpoint's tensors, as its configuration says
  Json source = Json::object();

  [[nodiscard]] std::int64_t num_blocks() const { return num_hidden_layers; }
  [[nodiscard]] std::int64_t context_length() const { return max_position_embeddings; }  ///< in tokens
  [[nodiscard]] std::int64_t vocabulary_size() const { return vocab_size; }
  [[nodiscard]] double attention_dropout() const { return attention_dropout_rate; }
  [[nodiscard]] double residual_dropout() const { return dropout; }
  [[nodiscard]] std::int64_t embedding_width() const {
    return word_embed_proj_dim == 0 ? hidden_size : word_embed_proj_dim;
  }
  [[nodiscard]] double attention_scale() const {
    return detail::attention_scale_of(hidden_size / num_attention_heads);
  }
  [[nodiscard]] bool has_final_norm() const { return do_layer_norm_before && !remove_final_layer_norm; }
  /// Standard deviation of a random weight.
  [[nodiscard]] double initial_deviation(std::string_view) const { return init_std; }

  template <class Self, class F>
  static void fields(Self& c, F&& f) {
    detail::common_fields(c, f);
    f("ffn_dim", c.ffn_dim);
    f("word_embed_proj_dim", c.word_embed_proj_dim);
    f("activation_function", c.activation_function);
    f("do_layer_norm_before", c.do_layer_norm_before);
    f("_remove_final_layer_norm", c.remove_final_layer_norm);
    f("enable_bias", c.enable_bias);
    f("layer_norm_elementwise_affine", c.layer_norm_elementwise_affine);
    f("dropout", c.dropout);
    f("init_std", c.init_std);
  }

  /// \throws ArgumentError for a value that no model can have, naming it.
  void check() const {
    detail::check_common(*this);
    detail::check_heads("hidden_size", hidden_size, "num_attention_heads", num_attention_heads);
    detail::check_within("ffn_dim", ffn_dim, 1, 16 * detail::kWidest);
    detail::check_within("word_embed_proj_dim", embedding_width(), 1, detail::kWidest);
    detail::check_rate("dropout", dropout);
    detail::check_deviation("init_std", init_std);
    (void)activation_of(activation_function);
  }

  /// \throws ProtocolError for a field of the wrong type, out of range, missing, or asking for what is not supported.
  [[nodiscard]] static OptConfig from_json(const Json& json) {
    OptConfig c;
    detail::read_fields(c, json, "opt",
                        {"num_hidden_layers", "num_attention_heads", "hidden_size", "ffn_dim",
                         "max_position_embeddings", "vocab_size"});
    const detail::ConfigFields fields(json);
    double layerdrop = 0;
    fields.read("layerdrop", layerdrop);
    require<ProtocolError>(
        layerdrop == 0,
        "layerdrop of the model's configuration is {}, but leaving out layers at random while "
        "training is not supported: it must be 0",
        layerdrop);
    if (fields.has("word_embed_proj_dim"))
      require<ProtocolError>(c.word_embed_proj_dim > 0,
                             "word_embed_proj_dim is {}, but it must be positive, or null for hidden_size",
                             c.word_embed_proj_dim);
    detail::check_read(c);
    return c;
  }

  /// `source` with every field above set to its present value.
  [[nodiscard]] Json to_json() const {
    Json json = detail::written_fields(*this, "opt", "OPTForCausalLM");
    json["word_embed_proj_dim"] = embedding_width();
    return json;
  }
};

}  // namespace offsite
