// Model shapes that are measured with random weights.
#pragma once
#include <string>
#include <string_view>

namespace bench {

struct Shape {
  std::string_view name, model_type;
  const char* fields;  ///< of config.json, beside the family's defaults
};

inline constexpr Shape kShapes[] = {
    {"gpt2-small", "gpt2", "{}"},
    {"gpt2-xl", "gpt2", R"({"n_embd": 1600, "n_head": 25, "n_layer": 48})"},
    {"gpt2-tiny", "gpt2", R"({"n_embd": 64, "n_head": 2, "n_layer": 4})"},
    {"opt-350m", "opt",
     R"({"hidden_size": 1024, "num_hidden_layers": 24, "ffn_dim": 4096, "num_attention_heads": 16,
         "word_embed_proj_dim": 512, "do_layer_norm_before": false})"},
    {"llama-350m", "llama",
     R"({"hidden_size": 1024, "num_hidden_layers": 24, "intermediate_size": 2752, "num_attention_heads": 16,
         "num_key_value_heads": 16, "vocab_size": 32000})"},
};

/// Null if there is none of this name.
inline const Shape* shape_named(std::string_view name) {
  for (const Shape& shape : kShapes)
    if (shape.name == name) return &shape;
  return nullptr;
}

}  // namespace bench
