#include "offsite/models/gpt2.hpp"

#include "models/conformance.hpp"

namespace gpt2_test {

using namespace offsite;

TEST_CASE("Gpt2: what holds of every model") {
  const Gpt2Config small{.n_layer = 4, .n_head = 3, .n_embd = 24, .n_positions = 64, .vocab_size = 50};
  conformance::check_conformance<Gpt2>(small);
  auto other = small;
  other.n_head = 4;
  other.n_inner = 52;
  other.scale_attn_by_inverse_layer_idx = true;
  other.tie_word_embeddings = false;
  other.activation_function = "gelu";
  conformance::check_conformance<Gpt2>(other);
}

TEST_CASE("Gpt2: a block keeps its number in the full model; buffers of published files are no parameters") {
  const Gpt2Config config{.n_layer = 5,
                          .n_head = 2,
                          .n_embd = 8,
                          .n_positions = 16,
                          .vocab_size = 11,
                          .scale_attn_by_inverse_layer_idx = true};
  const std::vector<std::int64_t> numbers{0, 3};
  Gpt2 model =
      Gpt2::build(config, numbers, [](std::string_view, at::IntArrayRef shape) { return at::zeros(shape); });
  CHECK(model.blocks[1].attention.options.scale == doctest::Approx(0.5 / 4));
  const auto all = conformance::parameters(model);
  CHECK(std::any_of(all.begin(), all.end(),
                    [](const auto& entry) { return entry.first == "transformer.h.3.attn.c_attn.weight"; }));
  CHECK(Gpt2::is_buffer("transformer.h.0.attn.bias"));
  CHECK(Gpt2::is_buffer("h.11.attn.masked_bias"));
  CHECK_FALSE(Gpt2::is_buffer("h.11.attn.c_attn.bias"));
}

TEST_CASE("Gpt2: an id outside the vocabulary and a row beyond the context are refused with the numbers") {
  const Gpt2 model =
      Gpt2::random({.n_layer = 1, .n_head = 1, .n_embd = 8, .n_positions = 80, .vocab_size = 50}, 1);
  const std::vector<std::int64_t> three{3}, long_one{81};
  const auto embed = [&](const at::Tensor& ids, const std::vector<std::int64_t>& lengths) {
    return [&model, ids, lengths] { (void)model.embed(ids, Sequences::of(lengths)); };
  };
  CHECK(support::message_of<ArgumentError>(embed(support::longs({1, 50, 2}), three)) ==
        "token id 50 of packed row 1 is outside the vocabulary of 50");
  CHECK(support::message_of<ArgumentError>(embed(at::zeros({81}, at::kLong), long_one)).find("80 tokens") !=
        std::string::npos);
}

TEST_CASE("Gpt2Config: reads and writes, keeping unknown fields") {
  const auto json = conformance::json(R"({"model_type": "gpt2", "n_layer": 2, "n_head": 3, "n_embd": 33,
      "vocab_size": 61, "n_ctx": 40, "n_inner": null, "activation_function": "relu", "scale_attn_weights": false,
      "tie_word_embeddings": false, "eos_token_id": 60, "dtype": "bfloat16", "own": {"field": [1, 2]}})");
  const auto c = Gpt2Config::from_json(json);
  CHECK(c.n_layer == 2);
  CHECK(c.n_positions == 40);
  CHECK(c.inner_width() == 132);
  CHECK(c.activation_function == "relu");
  CHECK(c.attention_scale(1) == 1);
  CHECK_FALSE(c.tie_word_embeddings);
  CHECK(c.bos_token_id == -1);
  CHECK(c.eos_token_id == 60);
  CHECK(c.dtype == "bfloat16");
  const auto again = c.to_json();
  CHECK(again.at("n_positions") == 40);
  CHECK(again.at("bos_token_id").is_null());
  conformance::check_config<Gpt2Config>(json);

  Gpt2Config scaled{.n_head = 4, .n_embd = 64, .scale_attn_by_inverse_layer_idx = true};
  CHECK(scaled.attention_scale(2) == doctest::Approx(0.25 / 3));
}

TEST_CASE("Gpt2Config: every hostile value gives one sentence that names it") {
  const auto good =
      Gpt2Config{.n_layer = 2, .n_head = 3, .n_embd = 33, .n_positions = 40, .vocab_size = 61}.to_json();
  conformance::check_wrong_config<Gpt2Config>(good,
                                              {"n_layer", "n_head", "n_embd", "vocab_size", "n_positions"},
                                              {{"n_layer", "1e3"},
                                               {"n_head", "4"},
                                               {"n_head", "34"},
                                               {"n_embd", "[33]"},
                                               {"n_embd", "4611686018427387904"},
                                               {"n_inner", "0"},
                                               {"n_inner", "-1"},
                                               {"n_positions", "1099511627776"},
                                               {"layer_norm_epsilon", "0"},
                                               {"layer_norm_epsilon", "\"x\""},
                                               {"activation_function", "\"gelu_old\""},
                                               {"activation_function", "3"},
                                               {"scale_attn_weights", "1"},
                                               {"tie_word_embeddings", "\"no\""},
                                               {"attn_pdrop", "1.0"},
                                               {"resid_pdrop", "-0.1"},
                                               {"add_cross_attention", "true"},
                                               {"model_type", "\"llama\""},
                                               {"eos_token_id", "-2"},
                                               {"initializer_range", "-1"},
                                               {"dtype", "16"}});
  auto infinite = good;
  infinite["embd_pdrop"] = INFINITY;
  CHECK_THROWS_AS((void)Gpt2Config::from_json(infinite), ProtocolError);
}

TEST_CASE("Gpt2::random: GPT-2's initialisation, the same bits for the same seed") {
  const Gpt2Config config{.n_layer = 2, .n_head = 2, .n_embd = 64, .n_positions = 32, .vocab_size = 500};
  Gpt2 a = Gpt2::random(config, 3), b = Gpt2::random(config, 3), c = Gpt2::random(config, 4);
  CHECK(at::equal(a.blocks[1].mlp.in.weight, b.blocks[1].mlp.in.weight));
  CHECK_FALSE(at::equal(a.blocks[1].mlp.in.weight, c.blocks[1].mlp.in.weight));
  CHECK_FALSE(at::equal(a.blocks[0].mlp.in.weight, a.blocks[1].mlp.in.weight));
  CHECK(a.wte.std().item<double>() == doctest::Approx(0.02).epsilon(0.05));
  CHECK(a.blocks[0].mlp.out.weight.std().item<double>() == doctest::Approx(0.01).epsilon(0.05));
  CHECK(a.blocks[0].attention.projection.all.bias.abs().max().item<double>() == 0);
  CHECK(a.head.norm->weight.min().item<double>() == 1);
  CHECK_FALSE(a.head.weight.defined());
}

}  // namespace gpt2_test
