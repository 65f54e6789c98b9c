#pragma once
#include <string_view>

#include "offsite/models/llama_config.hpp"

namespace conformance {

/// A member of the Llama family of 4 blocks, with grouped queries and heads that do not fill the width.
inline offsite::LlamaConfig small_llama(std::string_view model_type = "llama") {
  offsite::LlamaConfig c;
  c.model_type = model_type;
  c.num_hidden_layers = 4;
  c.num_attention_heads = 4;
  c.num_key_value_heads = 2;
  c.hidden_size = 20;
  c.head_dim = 6;
  c.intermediate_size = 34;
  c.max_position_embeddings = 64;
  c.vocab_size = 50;
  c.rope.dims = 6;
  return c;
}

}  // namespace conformance
