#include "offsite/models/llama.hpp"

#include "models/conformance.hpp"
#include "models/small_llama.hpp"

namespace llama_test {

using namespace offsite;
using conformance::small_llama;

namespace {

std::string refused(const Json& json) {
  return support::message_of<ProtocolError>([&] { (void)LlamaConfig::from_json(json); });
}

// A small configuration with other fields set, as a file has them.
Json with(std::string_view fields, std::string_view model_type = "llama") {
  Json json = conformance::json(
      R"({"num_hidden_layers": 3, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 20,
          "vocab_size": 61, "max_position_embeddings": 40, "num_key_value_heads": 2, "rms_norm_eps": 1e-05})");
  json["model_type"] = std::string(model_type);
  json.update(conformance::json(fields));
  return json;
}

}  // namespace

TEST_CASE("Llama: what holds of every model, plain and tied") {
  conformance::check_conformance<Llama>(small_llama());
  auto other = small_llama();
  other.attention_bias = other.mlp_bias = other.tie_word_embeddings = true;
  other.rope = {.type = RopeType::kLlama3, .dims = 6, .factor = 4, .context = 16};
  conformance::check_conformance<Llama>(other);
}

TEST_CASE("Llama: what holds of every model, with windows") {
  auto mistral = small_llama("mistral"), qwen2 = small_llama("qwen2");
  mistral.sliding_window = 5;
  conformance::check_conformance<Llama>(mistral);
  qwen2.sliding_window = 7;
  qwen2.first_window = 2;
  conformance::check_conformance<Llama>(qwen2);
}

TEST_CASE("Llama: what holds of every model, with norms of heads and with Gemma's ways") {
  conformance::check_conformance<Llama>(small_llama("qwen3"));
  auto gemma = small_llama("gemma");
  gemma.hidden_act = "gelu_pytorch_tanh";
  gemma.tie_word_embeddings = true;
  conformance::check_conformance<Llama>(gemma);
}

TEST_CASE("Llama: a Gemma's embedding is scaled by a number rounded to its type") {
  auto config = small_llama("gemma");
  config.hidden_size = 2048;
  config.num_hidden_layers = 1;
  const std::vector<std::int64_t> none, two{2};
  const auto ones = [](std::string_view, at::IntArrayRef shape) { return at::ones(shape, at::kBFloat16); };
  const auto model = Llama::build(config, none, ones);
  const at::Tensor h = model.embed(support::longs({1, 2}), Sequences::of(two));
  CHECK(h[0][0].item<float>() == 45.25f);  // sqrt(2048) = 45.2548
  CHECK(random_model<Llama>(small_llama("gemma"), 1).head.norm->weight.sum().item<float>() == 0);
  CHECK(random_model<Llama>(small_llama(), 1).head.norm->weight.sum().item<float>() == 20);
}

TEST_CASE("LlamaConfig: the older spelling is read and written, keeping unknown fields") {
  const auto json =
      with(R"({"architectures": ["LlamaForCausalLM"], "bos_token_id": 128000, "eos_token_id": [1, 2],
      "hidden_act": "silu", "attention_dropout": 0.1, "pretraining_tp": 1, "torch_dtype": "bfloat16",
      "rope_theta": 500000.0, "rope_scaling": {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
      "original_max_position_embeddings": 16, "rope_type": "llama3"}, "tie_word_embeddings": false})");
  const auto c = LlamaConfig::from_json(json);
  CHECK(c.rope.type == RopeType::kLlama3);
  CHECK(c.rope.theta == 500000);
  CHECK(c.rope.factor == 8);
  CHECK(c.rope.context == 16);
  CHECK(c.rope.dims == 8);
  CHECK(c.attention_dropout() == 0.1);
  CHECK(c.dtype == "bfloat16");
  conformance::check_config<LlamaConfig>(json);
  CHECK_FALSE(c.to_json().contains("rope_parameters"));
  CHECK_FALSE(c.to_json().contains("head_dim"));
  CHECK_FALSE(c.to_json().contains("dtype"));

  const auto legacy = with(R"({"rope_scaling": {"type": "linear", "factor": 2.0}})");
  CHECK(LlamaConfig::from_json(legacy).rope.type == RopeType::kLinear);
  conformance::check_config<LlamaConfig>(legacy);
  const auto null = with(R"({"rope_scaling": null, "head_dim": null, "sliding_window": null})", "mistral");
  CHECK(LlamaConfig::from_json(null).rope.type == RopeType::kDefault);
  CHECK(LlamaConfig::from_json(null).window(0) == 0);
  conformance::check_config<LlamaConfig>(null);
}

TEST_CASE("LlamaConfig: the newer spelling is read and written, keeping unknown fields") {
  const auto json = with(R"({"dtype": "float16", "head_dim": 10, "rope_parameters": {"rope_type": "yarn",
      "rope_theta": 1000000.0, "factor": 4.0, "original_max_position_embeddings": 10, "beta_fast": 16, "mscale": 1.5,
      "mscale_all_dim": 0.5, "truncate": false}})");
  const auto c = LlamaConfig::from_json(json);
  CHECK(c.rope.type == RopeType::kYarn);
  CHECK(c.rope.theta == 1e6);
  CHECK(c.rope.beta_fast == 16);
  CHECK_FALSE(c.rope.truncate);
  CHECK(c.head_width() == 10);
  CHECK(c.dtype == "float16");
  conformance::check_config<LlamaConfig>(json);
  CHECK_FALSE(c.to_json().contains("rope_theta"));
  CHECK_FALSE(c.to_json().contains("rope_scaling"));
  CHECK_FALSE(c.to_json().contains("torch_dtype"));

  auto changed = c;  // what was changed since is written where the file had it
  changed.rope = {.type = RopeType::kLinear, .theta = 77, .dims = 10, .factor = 3, .context = 40};
  const auto again = LlamaConfig::from_json(changed.to_json());
  CHECK(again.rope.type == RopeType::kLinear);
  CHECK(again.rope.theta == 77);
  CHECK_FALSE(changed.to_json().contains("rope_theta"));
}

TEST_CASE("LlamaConfig: rotary embeddings by type of layer are read where the layers turn alike") {
  const std::string one = R"({"rope_type": "linear", "rope_theta": 1000.0, "factor": 2.0})",
                    two = R"({"rope_type": "default", "rope_theta": 1000.0})",
                    mixed = R"("layer_types": ["full_attention", "sliding_attention", "full_attention"],
                              "use_sliding_window": true, "sliding_window": 9, )",
                    full = R"("layer_types": ["full_attention", "full_attention", "full_attention"], )";
  const auto given = [&](const std::string& types, const std::string& sliding) {
    return with("{" + types + R"("rope_parameters": {"full_attention": )" + one + sliding + "}}", "qwen3");
  };
  for (const auto& json :
       {given(mixed, R"(, "sliding_attention": )" + one), given("", R"(, "sliding_attention": )" + one),
        given(full, R"(, "sliding_attention": )" + two), given(full, ""), given("", "")}) {
    CAPTURE(json.dump());
    auto c = LlamaConfig::from_json(json);
    CHECK(c.rope.type == RopeType::kLinear);
    CHECK(c.rope.theta == 1000);
    CHECK(c.rope.factor == 2);
    conformance::check_config<LlamaConfig>(json);
    CHECK(c.to_json().at("rope_parameters") == json.at("rope_parameters"));
    c.rope.theta = 77;  // what was changed since is written for each type that is used
    CHECK(LlamaConfig::from_json(c.to_json()).rope.theta == 77);
    CHECK(c.to_json().at("rope_parameters").contains("full_attention"));
  }
  CHECK(refused(given(mixed, R"(, "sliding_attention": )" + two)) ==
        "rope_parameters of the model's configuration differs between \"full_attention\" and "
        "\"sliding_attention\", but "
        "all layers must turn alike");
  CHECK(refused(given(mixed, "")) ==
        "rope_parameters of the model's configuration lacks \"sliding_attention\", which layer_types names");
  CHECK(refused(given(mixed, R"(, "sliding_attention": null)"))
            .find("is a JSON null, but it must be an object") != std::string::npos);
  CHECK(refused(given("", R"(, "sliding_attention": 3)")).find("must be an object") != std::string::npos);
  CHECK(refused(given(R"("layer_types": [7], )", "")).find("layer_types") != std::string::npos);
}

TEST_CASE("LlamaConfig: each member of the family has its own defaults and switches") {
  const auto read = [](std::string_view fields, std::string_view type) {
    return LlamaConfig::from_json(with(fields, type));
  };
  CHECK(read("{}", "llama").window(2) == 0);
  CHECK(read(R"({"num_key_value_heads": null})", "llama").key_value_heads() == 4);
  CHECK(read("{}", "mistral").window(0) == 4096);
  CHECK(read("{}", "qwen2").window(2) == 0);
  CHECK(read("{}", "qwen2").query_key_value_biases());
  CHECK_FALSE(read("{}", "qwen2").attention_bias);
  CHECK(read("{}", "qwen3").head_width() == 128);
  CHECK(read("{}", "gemma").head_width() == 256);
  CHECK(read("{}", "gemma").tie_word_embeddings);
  CHECK_FALSE(read("{}", "llama").tie_word_embeddings);
  for (const auto* name : {R"({"hidden_act": "gelu"})", "{}", R"({"hidden_act": "gelu_pytorch_tanh"})"})
    CHECK(read(name, "gemma").hidden_act == "gelu_pytorch_tanh");
  const auto windows =
      read(R"({"use_sliding_window": true, "sliding_window": 9, "max_window_layers": 2})", "qwen2");
  CHECK(windows.window(1) == 0);
  CHECK(windows.window(2) == 9);
  const auto types = read(R"({"use_sliding_window": true, "sliding_window": 9, "max_window_layers": 28,
      "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]})",
                          "qwen3");
  CHECK(types.window(0) == 9);
  CHECK(types.window(1) == 0);
  for (const auto* type : {"llama", "mistral", "qwen2", "qwen3", "gemma"}) {
    INFO(type);
    conformance::check_config<LlamaConfig>(with("{}", type));
    const auto fresh = small_llama(type).to_json();
    CHECK(fresh.at("model_type") == Json(type));
    CHECK(LlamaConfig::from_json(fresh).to_json() == fresh);
    CHECK(Llama::accepts(type));
  }
  CHECK_FALSE(Llama::accepts("gpt2"));
}

TEST_CASE("LlamaConfig: what is not supported gives one sentence") {
  CHECK(refused(with("{}", "gemma2")) ==
        "the configuration is of a model of type \"gemma2\", but one of llama, mistral, qwen2, qwen3 and "
        "gemma is wanted");
  CHECK(
      refused(with(R"({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}})"))
          .find("\"longrope\" is not known; the known ones are default, linear, dynamic, llama3 and yarn") !=
      std::string::npos);
  CHECK(refused(with(R"({"quantization_config": {"quant_method": "gptq"}})")).find("quantised weights") !=
        std::string::npos);
  CHECK(refused(with(R"({"use_bidirectional_attention": true})", "gemma")).find("later tokens") !=
        std::string::npos);
  CHECK(refused(
            with(R"({"layer_types": ["full_attention", "linear_attention", "full_attention"]})", "qwen3")) ==
        "layer_types of the model's configuration holds \"linear_attention\", but full_attention and "
        "sliding_attention are all that is supported");
  CHECK(
      refused(with(R"({"layer_types": ["full_attention", "sliding_attention", "full_attention"]})", "qwen3"))
          .find("no window") != std::string::npos);
  CHECK(refused(with(R"({"layer_types": ["full_attention"]})", "qwen3")).find("names 1 blocks") !=
        std::string::npos);
  CHECK(refused(with(R"({"partial_rotary_factor": 0.5})")) ==
        "the model's configuration cannot be used: 4 features of a head turn, but all 8 must");
  CHECK(refused(with(R"({"head_dim": 7})")) ==
        "the model's configuration cannot be used: heads are 7 wide, but rotary embeddings turn pairs of "
        "features");
  CHECK(refused(with(R"({"num_key_value_heads": 3})")) ==
        "the model's configuration cannot be used: num_attention_heads is 4, which does not divide among "
        "num_key_value_heads = 3");
}

TEST_CASE("LlamaConfig: every hostile value gives one sentence that names it") {
  const auto good = with(R"({"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 10000.0})");
  conformance::check_wrong_config<LlamaConfig>(
      good, {"num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size", "vocab_size"},
      {{"num_hidden_layers", "1e3"},
       {"num_attention_heads", "5"},
       {"num_attention_heads", "33"},
       {"hidden_size", "4611686018427387904"},
       {"num_key_value_heads", "0"},
       {"num_key_value_heads", "-2"},
       {"num_key_value_heads", "8"},
       {"head_dim", "0"},
       {"head_dim", "-8"},
       {"head_dim", "4611686018427387904"},
       {"max_position_embeddings", "0"},
       {"rms_norm_eps", "0"},
       {"rms_norm_eps", "\"small\""},
       {"attention_dropout", "1.0"},
       {"initializer_range", "-1"},
       {"hidden_act", "\"gelu_old\""},
       {"mlp_bias", "1"},
       {"attention_bias", "\"no\""},
       {"tie_word_embeddings", "0"},
       {"rope_theta", "0"},
       {"rope_scaling", "[1]"},
       {"rope_scaling", "\"linear\""},
       {"dtype", "16"},
       {"model_type", "\"mixtral\""}});
  for (const auto* scaling :
       {R"({"type": "linear"})", R"({"type": "linear", "factor": 0.5})",
        R"({"type": "linear", "factor": "2"})", R"({"type": 3, "factor": 2})",
        R"({"type": "yarn", "factor": 2, "original_max_position_embeddings": 0})",
        R"({"type": "llama3", "factor": 2, "low_freq_factor": 4, "high_freq_factor": 4})"}) {
    INFO(scaling);
    auto json = good;
    json["rope_scaling"] = conformance::json(scaling);
    CHECK(refused(json).size() < 300);
  }
  const auto mistral = with("{}", "mistral");
  conformance::check_wrong_config<LlamaConfig>(
      mistral, {}, {{"sliding_window", "0"}, {"sliding_window", "-1"}, {"sliding_window", "\"all\""}});
}

}  // namespace llama_test
