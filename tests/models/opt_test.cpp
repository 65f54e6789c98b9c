#include "offsite/models/opt.hpp"

#include "models/conformance.hpp"

namespace opt_test {

using namespace offsite;

TEST_CASE("Opt: what holds of every model") {
  const OptConfig small{.num_hidden_layers = 4,
                        .num_attention_heads = 3,
                        .hidden_size = 24,
                        .ffn_dim = 60,
                        .max_position_embeddings = 64,
                        .vocab_size = 50,
                        .activation_function = "gelu"};  // smooth: finite differences are taken
  conformance::check_conformance<Opt>(small);
  auto other = small;
  other.do_layer_norm_before = other.tie_word_embeddings = false;
  other.word_embed_proj_dim = 17;
  conformance::check_conformance<Opt>(other);
}

TEST_CASE("OptConfig: reads and writes, keeping unknown fields and the spelling") {
  const auto json =
      conformance::json(R"({"model_type": "opt", "num_hidden_layers": 2, "num_attention_heads": 3,
      "hidden_size": 33, "ffn_dim": 20, "max_position_embeddings": 40, "vocab_size": 61, "do_layer_norm_before": false,
      "word_embed_proj_dim": 7, "enable_bias": false, "layer_norm_elementwise_affine": false,
      "_remove_final_layer_norm": true, "activation_function": "gelu", "dropout": 0.2, "attention_dropout": 0.3,
      "tie_word_embeddings": false, "init_std": 0.5, "layerdrop": 0.0, "prefix": "</s>", "dtype": "bfloat16"})");
  const auto c = OptConfig::from_json(json);
  CHECK(c.num_blocks() == 2);
  CHECK(c.context_length() == 40);
  CHECK(c.embedding_width() == 7);
  CHECK(c.residual_dropout() == 0.2);
  CHECK(c.attention_dropout() == 0.3);
  CHECK_FALSE(c.has_final_norm());
  CHECK(c.dtype == "bfloat16");
  CHECK(c.to_json().contains("torch_dtype") == false);
  conformance::check_config<OptConfig>(json);
}

TEST_CASE("OptConfig: every hostile value gives one sentence that names it") {
  const auto good = OptConfig{}.to_json();
  conformance::check_wrong_config<OptConfig>(good,
                                             {"num_hidden_layers", "num_attention_heads", "hidden_size",
                                              "ffn_dim", "max_position_embeddings", "vocab_size"},
                                             {{"num_hidden_layers", "1e3"},
                                              {"num_attention_heads", "5"},
                                              {"num_attention_heads", "769"},
                                              {"hidden_size", "4611686018427387904"},
                                              {"word_embed_proj_dim", "0"},
                                              {"word_embed_proj_dim", "-4"},
                                              {"do_layer_norm_before", "1"},
                                              {"_remove_final_layer_norm", "\"no\""},
                                              {"dropout", "1.0"},
                                              {"attention_dropout", "-0.1"},
                                              {"layerdrop", "0.1"},
                                              {"init_std", "-1"},
                                              {"activation_function", "\"gelu_old\""},
                                              {"dtype", "16"},
                                              {"model_type", "\"bloom\""}});
}

}  // namespace opt_test
