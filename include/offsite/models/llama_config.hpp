#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/io/json_value.hpp"
#include "offsite/models/read_config.hpp"
#include "offsite/models/rope_fields.hpp"
#include "offsite/ops/activation.hpp"
#include "offsite/ops/rope.hpp"

namespace offsite {

/// What tells the members of the Llama family apart, by the `model_type` of their configurations.
struct LlamaKind {
  std::string_view model_type = "llama";
  std::string_view architecture = "LlamaForCausalLM";
  bool query_key_value_biases = false;  ///< always, whatever the configuration says
  bool attention_bias_field = false;    ///< `attention_bias` gives all four projections biases
  bool head_norms = false;              ///< of queries and keys
  bool gemma = false;               ///< embedding times sqrt(hidden_size), norms scale by 1 + weight, GeGLU
  std::int64_t head_dim = 0;        ///< where the configuration names none; 0 = hidden_size / heads
  std::int64_t sliding_window = 0;  ///< likewise; 0 = none
  bool window_in_some_blocks =
      false;          ///< `use_sliding_window`, from block `max_window_layers` or by `layer_types`
  bool tied = false;  ///< `tie_word_embeddings` where the configuration is silent

  static constexpr std::size_t kCount = 5;
  [[nodiscard]] static constexpr std::array<LlamaKind, kCount> all() {
    return {{{.attention_bias_field = true},
             {.model_type = "mistral", .architecture = "MistralForCausalLM", .sliding_window = 4096},
             {.model_type = "qwen2",
              .architecture = "Qwen2ForCausalLM",
              .query_key_value_biases = true,
              .sliding_window = 4096,
              .window_in_some_blocks = true},
             {.model_type = "qwen3",
              .architecture = "Qwen3ForCausalLM",
              .attention_bias_field = true,
              .head_norms = true,
              .head_dim = 128,
              .sliding_window = 4096,
              .window_in_some_blocks = true},
             {.model_type = "gemma",
              .architecture = "GemmaForCausalLM",
              .attention_bias_field = true,
              .gemma = true,
              .head_dim = 256,
              .tied = true}}};
  }
};

/// The `config.json` of a model of the Llama family under Hugging Face's names: Llama 1 to 3, Mistral, Qwen2, Qwen3,
/// Gemma 1. Fields it does not know survive in `source`.
struct LlamaConfig {
  std::string model_type = "llama";       ///< one of `LlamaKind::all()`
  std::int64_t num_hidden_layers = 32;    ///< blocks of the full model
  std::int64_t num_attention_heads = 32;  ///< of queries
  std::int64_t num_key_value_heads = 0;   ///< divides num_attention_heads; 0 = as many
  std::int64_t hidden_size = 4096;
  std::int64_t head_dim = 0;                    ///< width of a head; 0 = hidden_size / num_attention_heads
  std::int64_t intermediate_size = 11008;       ///< width of the feed-forward part
  std::int64_t max_position_embeddings = 2048;  ///< context length in tokens
  std::int64_t vocab_size = 32000;
  std::string hidden_act = "silu";   ///< of the gate; see `activation_of`
  bool tie_word_embeddings = false;  ///< the head is the token embedding
  bool attention_bias = false;       ///< all four projections have biases, beside what `LlamaKind` says
  bool mlp_bias = false;  ///< linear layers of the feed-forward part have biases; model type llama only
  double rms_norm_eps = 1e-6;
  double attention_dropout_rate = 0;  ///< `attention_dropout`, in [0, 1)
  double initializer_range = 0.02;    ///< standard deviation of random weights
  std::int64_t sliding_window = 0;  ///< keys that a query sees in blocks with a window; 0 = no block has one
  std::int64_t first_window = 0;    ///< `max_window_layers`: blocks from here on have it, without `windowed`
  std::vector<bool> windowed{};     ///< from `layer_types`: which blocks have it; empty = not given
  RopeOptions rope{
      .dims = 128};  ///< from `rope_parameters`, or `rope_theta` and `rope_scaling`; turns whole heads
  std::string dtype = "float32";  ///< of the checkpoint's tensors, as its configuration says
  Json source = Json::object();

  [[nodiscard]] std::int64_t num_blocks() const { return num_hidden_layers; }
  [[nodiscard]] std::int64_t context_length() const { return max_position_embeddings; }  ///< in tokens
  [[nodiscard]] std::int64_t vocabulary_size() const { return vocab_size; }
  [[nodiscard]] double attention_dropout() const { return attention_dropout_rate; }
  [[nodiscard]] double residual_dropout() const { return 0; }
  [[nodiscard]] std::int64_t key_value_heads() const {
    return num_key_value_heads == 0 ? num_attention_heads : num_key_value_heads;
  }
  [[nodiscard]] std::int64_t head_width() const {
    return head_dim == 0 ? hidden_size / num_attention_heads : head_dim;
  }
  [[nodiscard]] double attention_scale() const { return detail::attention_scale_of(head_width()); }
  /// Keys that queries of block `index` see; 0 = all.
  [[nodiscard]] std::int64_t window(std::int64_t index) const {
    const bool has = windowed.empty() ? index >= first_window : windowed[static_cast<std::size_t>(index)];
    return has ? sliding_window : 0;
  }
  [[nodiscard]] bool query_key_value_biases() const {
    return attention_bias || kind().query_key_value_biases;
  }
  /// Standard deviation of a random weight.
  [[nodiscard]] double initial_deviation(std::string_view) const { return initializer_range; }
  /// A random norm's weight, which scales by 1.
  [[nodiscard]] double initial_norm() const { return kind().gemma ? 0 : 1; }

  [[nodiscard]] static bool accepts(std::string_view model_type) { return find_kind(model_type) != nullptr; }
  /// \throws ArgumentError if `model_type` is none of the family.
  [[nodiscard]] const LlamaKind& kind() const {
    const auto* found = find_kind(model_type);
    require(found != nullptr, "the model type \"{}\" is none of llama, mistral, qwen2, qwen3 and gemma",
            model_type);
    return *found;
  }

  template <class Self, class F>
  static void fields(Self& c, F&& f) {
    detail::common_fields(c, f);
    f("intermediate_size", c.intermediate_size);
    f("hidden_act", c.hidden_act);
    f("rms_norm_eps", c.rms_norm_eps);
    f("initializer_range", c.initializer_range);
  }

  /// \throws ArgumentError for a value that no model can have, naming it.
  void check() const {
    using detail::check_within;
    detail::check_common(*this);
    check_within("head_dim", head_dim, 0, detail::kWidest);
    check_within("num_key_value_heads", num_key_value_heads, 0, num_attention_heads);
    if (head_dim == 0)
      detail::check_heads("hidden_size", hidden_size, "num_attention_heads", num_attention_heads);
    require(num_attention_heads % key_value_heads() == 0,
            "num_attention_heads is {}, which does not divide among num_key_value_heads = {}",
            num_attention_heads, key_value_heads());
    check_within("the width of all heads", num_attention_heads * head_width(), 1, 16 * detail::kWidest);
    require(head_width() % 2 == 0, "heads are {} wide, but rotary embeddings turn pairs of features",
            head_width());
    check_within("intermediate_size", intermediate_size, 1, 16 * detail::kWidest);
    check_within("sliding_window", sliding_window, 0, detail::kMostTokens);
    check_within("max_window_layers", first_window, 0, detail::kMostTokens);
    require(windowed.empty() || static_cast<std::int64_t>(windowed.size()) == num_hidden_layers,
            "layer_types names {} blocks, but num_hidden_layers is {}", windowed.size(), num_hidden_layers);
    detail::check_epsilon("rms_norm_eps", rms_norm_eps);
    detail::check_deviation("initializer_range", initializer_range);
    require(!attention_bias || kind().attention_bias_field,
            "attention_bias is true, but models of type {} have none", kind().model_type);
    require(!mlp_bias || model_type == "llama", "mlp_bias is true, but models of type {} have none",
            kind().model_type);
    (void)activation_of(hidden_act);
    rope.check();
    require(rope.dims == head_width(), "{} features of a head turn, but all {} must", rope.dims,
            head_width());
  }

  /// \throws ProtocolError for a field of the wrong type, out of range, missing, or asking for what is not supported.
  [[nodiscard]] static LlamaConfig from_json(const Json& json);

  /// `source` with every field above set to its present value, in the source's spelling.
  [[nodiscard]] Json to_json() const;

 private:
  static const LlamaKind* find_kind(std::string_view model_type) {
    static constexpr auto kinds = LlamaKind::all();
    for (const auto& kind : kinds)
      if (kind.model_type == model_type) return &kind;
    return nullptr;
  }
  void read_windows(const detail::ConfigFields& fields);
};

inline LlamaConfig LlamaConfig::from_json(const Json& json) {
  const detail::ConfigFields fields(json);
  LlamaConfig c;
  fields.read("model_type", c.model_type);
  require<ProtocolError>(
      accepts(c.model_type),
      "the configuration is of a model of type \"{}\", but one of llama, mistral, qwen2, qwen3 and "
      "gemma is wanted",
      c.model_type);
  const auto& kind = c.kind();
  c.tie_word_embeddings = kind.tied;
  if (kind.gemma) c.hidden_act = "gelu_pytorch_tanh";
  detail::read_fields(
      c, json, c.model_type,
      {"num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size", "vocab_size"});
  detail::refuse_field(fields, "use_bidirectional_attention", "attention to later tokens is not supported");
  // Gemma's first releases say gelu and mean its approximation by tanh, as Hugging Face reads them too.
  if (kind.gemma && c.hidden_act == "gelu") c.hidden_act = "gelu_pytorch_tanh";
  fields.read("num_key_value_heads", c.num_key_value_heads);
  c.head_dim = kind.head_dim;
  fields.read("head_dim", c.head_dim);
  for (const char* name : {"num_key_value_heads", "head_dim"})
    require<ProtocolError>(!fields.has(name) || json.at(name).get<std::int64_t>() > 0,
                           "{} of the model's configuration is not positive", name);
  if (kind.attention_bias_field) fields.read("attention_bias", c.attention_bias);
  if (kind.model_type == "llama") fields.read("mlp_bias", c.mlp_bias);
  c.read_windows(fields);
  c.rope = {};
  c.rope.dims = c.head_dim;
  if (c.head_dim == 0 && c.num_attention_heads > 0) c.rope.dims = c.hidden_size / c.num_attention_heads;
  detail::check_read(c);  // the width of heads, before it is used
  c.rope = detail::read_rope(json, {}, c.head_width(), c.max_position_embeddings);
  detail::check_read(c);
  return c;
}

inline void LlamaConfig::read_windows(const detail::ConfigFields& fields) {
  const auto& k = kind();
  if (k.sliding_window == 0) return;
  if (!source.contains("sliding_window")) sliding_window = k.sliding_window;
  fields.read("sliding_window", sliding_window);
  require<ProtocolError>(sliding_window > 0 || !fields.has("sliding_window"),
                         "sliding_window is {}, but it must be positive, or null for none", sliding_window);
  if (!k.window_in_some_blocks) return;
  bool used = false;
  fields.read("use_sliding_window", used);
  if (!used) sliding_window = 0;
  first_window = 28;
  fields.read("max_window_layers", first_window);
  if (!fields.has("layer_types")) return;
  const Json& types = source.at("layer_types");
  require<ProtocolError>(types.is_array(),
                         "layer_types of the model's configuration is a JSON {}, but it must be a list",
                         types.type_name());
  for (const Json& type : types) {
    const bool text = type.is_string(), window = text && type.get<std::string>() == "sliding_attention";
    require<ProtocolError>(window || (text && type.get<std::string>() == "full_attention"),
                           "layer_types of the model's configuration holds {}, but full_attention and "
                           "sliding_attention are all that is supported",
                           detail::text_of(type));
    require<ProtocolError>(
        !window || sliding_window > 0,
        "layer_types of the model's configuration holds sliding_attention, but use_sliding_window "
        "or sliding_window say that there is no window");
    windowed.push_back(window);
  }
}

inline Json LlamaConfig::to_json() const {
  const auto& k = kind();
  Json json = detail::written_fields(*this, k.model_type, k.architecture);
  // What a file may leave out, or say null for, stays so while it means the same.
  const auto set = [&](const char* name, const auto& value, bool as_default) {
    const auto* found = json.find(name);
    if (as_default && (found == nullptr || found->is_null())) return;
    json[name] = value;
  };
  set("num_key_value_heads", key_value_heads(), false);
  set("head_dim", head_width(),
      k.head_dim == 0 ? head_width() * num_attention_heads == hidden_size : head_width() == k.head_dim);
  if (k.attention_bias_field) set("attention_bias", attention_bias, !attention_bias);
  if (k.model_type == "llama") set("mlp_bias", mlp_bias, !mlp_bias);
  if (k.sliding_window > 0 && !k.window_in_some_blocks)
    json["sliding_window"] = sliding_window == 0 ? Json() : Json(sliding_window);
  if (k.window_in_some_blocks) {
    json["use_sliding_window"] = sliding_window > 0;
    if (sliding_window > 0) json["sliding_window"] = sliding_window;
    if (sliding_window > 0 || json.contains("max_window_layers")) json["max_window_layers"] = first_window;
    if (!windowed.empty()) {
      Json types;
      for (const bool has : windowed) types.push_back(has ? "sliding_attention" : "full_attention");
      json["layer_types"] = types;
    }
  }
  detail::write_rope(json, rope, {}, head_width(), max_position_embeddings);
  return json;
}

}  // namespace offsite
