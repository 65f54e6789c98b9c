#include "offsite/models/bloom.hpp"

#include "models/conformance.hpp"

namespace bloom_test {

using namespace offsite;

TEST_CASE("Bloom: what holds of every model") {
  const BloomConfig small{.n_layer = 4, .n_head = 3, .hidden_size = 24, .vocab_size = 50};
  conformance::check_conformance<Bloom>(small);
  auto other = small;
  other.n_head = 4;
  other.apply_residual_connection_post_layernorm = true;
  other.tie_word_embeddings = false;
  conformance::check_conformance<Bloom>(other);
}

TEST_CASE("alibi_slopes: powers of two, and others in between") {
  CHECK(alibi_slopes(1) == std::vector<float>{0.00390625f});
  CHECK(alibi_slopes(4) == std::vector<float>{0.25f, 0.0625f, 0.015625f, 0.00390625f});
  const auto six = alibi_slopes(6);
  CHECK(six.size() == 6);
  CHECK(six[3] == 0.00390625f);
  CHECK(six[4] == 0.5f);
  CHECK(six[5] == 0.125f);
  CHECK(alibi_slopes(16)[0] == doctest::Approx(0.70710678));
}

TEST_CASE("BloomConfig: reads and writes both spellings, keeping unknown fields") {
  const auto json = conformance::json(R"({"model_type": "bloom", "n_layer": 2, "n_head": 3, "hidden_size": 33,
      "vocab_size": 61, "apply_residual_connection_post_layernorm": true, "attention_dropout": 0.25,
      "hidden_dropout": 0.125, "layer_norm_epsilon": 1e-6, "tie_word_embeddings": false, "unk_token_id": 0,
      "pretraining_tp": 4, "slow_but_exact": false, "torch_dtype": "float16"})");
  const auto c = BloomConfig::from_json(json);
  CHECK(c.context_length() == 2048);
  CHECK(c.residual_dropout() == 0.125);
  CHECK(c.attention_dropout() == 0.25);
  conformance::check_config<BloomConfig>(json);

  const auto published =
      conformance::json(R"({"model_type": "bloom", "num_hidden_layers": 2, "num_attention_heads": 3,
      "n_embed": 33, "vocab_size": 61, "seq_length": 512, "dtype": "bfloat16", "n_inner": null})");
  const auto d = BloomConfig::from_json(published);
  CHECK(d.n_layer == 2);
  CHECK(d.hidden_size == 33);
  CHECK(d.context_length() == 512);
  CHECK_FALSE(d.to_json().contains("hidden_size"));
  conformance::check_config<BloomConfig>(published);
}

TEST_CASE("BloomConfig: every hostile value gives one sentence that names it") {
  conformance::check_wrong_config<BloomConfig>(BloomConfig{}.to_json(),
                                               {"n_layer", "n_head", "hidden_size", "vocab_size"},
                                               {{"n_head", "5"},
                                                {"n_head", "65"},
                                                {"seq_length", "0"},
                                                {"layer_norm_epsilon", "0"},
                                                {"hidden_dropout", "1"},
                                                {"attention_dropout", "-1"},
                                                {"slow_but_exact", "true"},
                                                {"initializer_range", "1e9"},
                                                {"tie_word_embeddings", "0"},
                                                {"model_type", "\"opt\""}});
}

}  // namespace bloom_test
