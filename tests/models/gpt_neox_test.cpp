#include "offsite/models/gpt_neox.hpp"

#include "models/conformance.hpp"

namespace gpt_neox_test {

using namespace offsite;

TEST_CASE("GptNeox: what holds of every model") {
  GptNeoxConfig small{.num_hidden_layers = 4,
                      .num_attention_heads = 3,
                      .hidden_size = 24,
                      .intermediate_size = 60,
                      .max_position_embeddings = 64,
                      .vocab_size = 50};
  small.rope.dims = 4;
  conformance::check_conformance<GptNeox>(small);
  auto other = small;
  other.use_parallel_residual = other.attention_bias = false;
  other.tie_word_embeddings = true;
  other.rope = {.type = RopeType::kLinear, .theta = 500, .dims = 8, .factor = 2, .context = 64};
  conformance::check_conformance<GptNeox>(other);
}

TEST_CASE("GptNeox: buffers of published files are no parameters") {
  CHECK(GptNeox::is_buffer("gpt_neox.layers.0.attention.bias"));
  CHECK(GptNeox::is_buffer("gpt_neox.layers.11.attention.masked_bias"));
  CHECK(GptNeox::is_buffer("layers.11.attention.rotary_emb.inv_freq"));
  CHECK_FALSE(GptNeox::is_buffer("gpt_neox.layers.11.attention.dense.bias"));
}

TEST_CASE("GptNeoxConfig: reads and writes both spellings of the rotary embedding, keeping unknown fields") {
  const auto older = conformance::json(R"({"model_type": "gpt_neox", "num_hidden_layers": 2,
      "num_attention_heads": 3, "hidden_size": 30, "intermediate_size": 20, "max_position_embeddings": 40,
      "vocab_size": 61, "rotary_pct": 0.25, "rotary_emb_base": 500, "use_parallel_residual": false,
      "hidden_act": "gelu_fast", "attention_dropout": 0.25, "hidden_dropout": 0.125, "layer_norm_eps": 1e-6,
      "tie_word_embeddings": true, "attention_bias": false, "classifier_dropout": 0.1, "torch_dtype": "float16"})");
  const auto c = GptNeoxConfig::from_json(older);
  CHECK(c.rope.dims == 2);
  CHECK(c.rope.theta == 500);
  CHECK(c.residual_dropout() == 0.125);
  CHECK(c.attention_dropout() == 0.25);
  CHECK_FALSE(c.to_json().contains("rope_parameters"));
  conformance::check_config<GptNeoxConfig>(older);

  auto newer = older;
  for (const auto* gone : {"rotary_pct", "rotary_emb_base", "torch_dtype"}) newer.erase(gone);
  newer["dtype"] = "float16";
  newer["rope_parameters"] =
      conformance::json(R"({"rope_type": "default", "rope_theta": 500, "partial_rotary_factor": 0.25})");
  conformance::check_config<GptNeoxConfig>(newer);
  CHECK(detail::same_rope(GptNeoxConfig::from_json(newer).rope, c.rope));
  CHECK_FALSE(GptNeoxConfig::from_json(newer).to_json().contains("rotary_pct"));

  auto bare = newer;
  bare.erase("rope_parameters");
  const auto d = GptNeoxConfig::from_json(bare);
  CHECK(d.rope.dims == 2);
  CHECK(d.rope.theta == 10000);

  for (auto changed : {c, GptNeoxConfig::from_json(newer), d}) {  // another embedding is written as it is
    changed.rope = {.type = RopeType::kLinear, .theta = 7, .dims = 5, .factor = 3, .context = 40};
    CHECK(detail::same_rope(GptNeoxConfig::from_json(changed.to_json()).rope, changed.rope));
    changed.rope = {
        .type = RopeType::kYarn, .theta = 9, .dims = 10, .factor = 2, .context = 20, .mscale = 0.5};
    CHECK(detail::same_rope(GptNeoxConfig::from_json(changed.to_json()).rope, changed.rope));
  }
}

TEST_CASE("GptNeoxConfig: every hostile value gives one sentence that names it") {
  auto good = GptNeoxConfig{}.to_json();
  good.erase("rope_parameters");  // else it would count, not rotary_pct
  conformance::check_wrong_config<GptNeoxConfig>(
      good,
      {"num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size",
       "max_position_embeddings", "vocab_size"},
      {{"num_attention_heads", "5"},
       {"layer_norm_eps", "0"},
       {"hidden_dropout", "1"},
       {"attention_dropout", "-1"},
       {"hidden_act", "\"swiglu\""},
       {"use_parallel_residual", "1"},
       {"rotary_pct", "1.5"},
       {"rotary_pct", "-0.5"},
       {"rope_parameters", "3"},
       {"rope_parameters", R"({"rope_type": "longrope"})"},
       {"rope_scaling", R"({"type": "linear"})"},
       {"rope_scaling", R"([1])"},
       {"model_type", "\"llama\""}});
  const auto with = [](const char* rope) {
    auto json = GptNeoxConfig{}.to_json();
    json["rope_parameters"] = conformance::json(rope);
    return support::message_of<ProtocolError>([&] { (void)GptNeoxConfig::from_json(json); });
  };
  CHECK(with(R"({"rope_type": "longrope"})") ==
        "rope_parameters of the model's configuration cannot be used: the rotary embedding type \"longrope\" "
        "is not "
        "known; the known ones are default, linear, dynamic, llama3 and yarn");
  CHECK(with(R"({"rope_type": "linear"})").find("factor") != std::string::npos);
  CHECK(with(R"({"rope_type": "linear", "factor": 0.5})").find("factor") != std::string::npos);
  CHECK(with(R"({"rope_theta": 0})").find("rope_theta") != std::string::npos);
  CHECK(with(R"({"rope_theta": "big"})").find("rope_theta") != std::string::npos);
}

}  // namespace gpt_neox_test
