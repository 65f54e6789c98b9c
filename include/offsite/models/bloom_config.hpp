#pragma once
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/io/json_value.hpp"
#include "offsite/models/read_config.hpp"

namespace offsite {

/// The `config.json` of a BLOOM model, under Hugging Face's names. Fields it does not know survive in `source`.
struct BloomConfig {
  std::int64_t n_layer = 2;        ///< blocks of the full model; also `num_hidden_layers`
  std::int64_t n_head = 8;         ///< divides hidden_size; also `num_attention_heads`
  std::int64_t hidden_size = 64;   ///< also `n_embed`
  std::int64_t seq_length = 2048;  ///< tokens that it was trained on at once: biases by distance set no limit
  std::int64_t vocab_size = 250880;
  double layer_norm_epsilon = 1e-5;
  bool apply_residual_connection_post_layernorm = false;  ///< sums start from what the norms give
  bool tie_word_embeddings = true;                        ///< the head is the token embedding
  double hidden_dropout = 0;          ///< of what attention and feed-forward add, in [0, 1)
  double attention_dropout_rate = 0;  ///< `attention_dropout`, in [0, 1)
  double initializer_range = 0.02;    ///< standard deviation of random weights
  std::string dtype = "float32";      ///< of the checkpoint's tensors, as its configuration says
  Json source = Json::object();

  [[nodiscard]] std::int64_t num_blocks() const { return n_layer; }
  [[nodiscard]] std::int64_t context_length() const { return seq_length; }  ///< in tokens
  [[nodiscard]] std::int64_t vocabulary_size() const { return vocab_size; }
  [[nodiscard]] double attention_dropout() const { return attention_dropout_rate; }
  [[nodiscard]] double residual_dropout() const { return hidden_dropout; }
  [[nodiscard]] double attention_scale() const { return detail::attention_scale_of(hidden_size / n_head); }
  /// Standard deviation of a random weight.
  [[nodiscard]] double initial_deviation(std::string_view) const { return initializer_range; }

  template <class Self, class F>
  static void fields(Self& c, F&& f) {
    f("n_layer", c.n_layer, "num_hidden_layers");
    f("n_head", c.n_head, "num_attention_heads");
    f("hidden_size", c.hidden_size, "n_embed");
    f("seq_length", c.seq_length);
    f("layer_norm_epsilon", c.layer_norm_epsilon);
    f("apply_residual_connection_post_layernorm", c.apply_residual_connection_post_layernorm);
    f("hidden_dropout", c.hidden_dropout);
    f("attention_dropout", c.attention_dropout_rate);
    f("initializer_range", c.initializer_range);
    detail::shared_fields(c, f);
  }

  /// \throws ArgumentError for a value that no model can have, naming it.
  void check() const {
    detail::check_sizes(*this, "n_layer", "seq_length");
    detail::check_heads("hidden_size", hidden_size, "n_head", n_head);
    detail::check_epsilon("layer_norm_epsilon", layer_norm_epsilon);
    detail::check_rate("hidden_dropout", hidden_dropout);
    detail::check_rate("attention_dropout", attention_dropout_rate);
    detail::check_deviation("initializer_range", initializer_range);
  }

  /// \throws ProtocolError for a field of the wrong type, out of range, missing, or asking for what is not supported.
  [[nodiscard]] static BloomConfig from_json(const Json& json) {
    BloomConfig c;
    detail::read_fields(c, json, "bloom", {"n_layer", "n_head", "hidden_size", "vocab_size"});
    detail::refuse_field(detail::ConfigFields(json), "slow_but_exact",
                         "products in slices are not supported: it must be false");
    detail::check_read(c);
    return c;
  }

  /// `source` with every field above set to its present value.
  [[nodiscard]] Json to_json() const { return detail::written_fields(*this, "bloom", "BloomForCausalLM"); }
};

/// The slope of each head's bias by distance (ALiBi: Press, Smith, Lewis, arXiv:2108.12409): powers of 2^(-8/n) for n
/// heads; if n is no power of two, those for the next lower one, and every other one of those for the next higher.
[[nodiscard]] inline std::vector<float> alibi_slopes(std::int64_t heads) {
  std::int64_t lower = 1;
  while (2 * lower <= heads) lower *= 2;
  std::vector<float> slopes;
  const auto slope = [](std::int64_t power, std::int64_t of) {
    return static_cast<float>(std::exp2(-8.0 * static_cast<double>(power) / static_cast<double>(of)));
  };
  for (std::int64_t i = 1; i <= lower; ++i) slopes.push_back(slope(i, lower));
  for (std::int64_t i = 1; lower + i <= heads; ++i) slopes.push_back(slope(2 * i - 1, 2 * lower));
  return slopes;
}

}  // namespace offsite
