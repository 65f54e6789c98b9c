#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/embedding.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "offsite/blocks/transformer_block.hpp"
#include "offsite/core/sequences.hpp"
#include "offsite/models/causal_lm.hpp"
#include "offsite/models/checkpoint_model.hpp"
#include "offsite/models/gpt_neox_config.hpp"
#include "offsite/models/transformer_lm.hpp"
#include "offsite/ops/embedding.hpp"
#include "offsite/ops/mlp.hpp"

namespace offsite {

/// One transformer layer of GPT-NeoX, whose queries and keys are turned by their positions.
struct GptNeoxBlock : TransformerBlock<LayerNorm, SelfAttention<InterleavedProjection>, Mlp> {
  /// Calls `f(name, tensor&)` for every parameter, under Hugging Face's names within a block.
  template <class F>
  void visit(F&& f) {
    norm_1.visit("input_layernorm", f);
    attention.projection.all.visit("attention.query_key_value", f);
    attention.out.visit("attention.dense", f);
    norm_2.visit("post_attention_layernorm", f);
    mlp.in.visit("mlp.dense_h_to_4h", f);
    mlp.out.visit("mlp.dense_4h_to_h", f);
  }
};

/// GPT-NeoX (Black et al., "GPT-NeoX-20B: An Open-Source Autoregressive Language Model", arXiv:2204.06745), Pythia
/// among them, as a plain struct of tensors.
struct GptNeox : TransformerLm<GptNeoxConfig, GptNeoxBlock> {
  static constexpr std::string_view kModelType = "gpt_neox";
  static constexpr std::string_view kKeyPrefix = "gpt_neox.";       ///< which keys of some files lack
  static constexpr std::string_view kTiedKey = "embed_out.weight";  ///< if tied, a file may hold it, equal to
  static constexpr std::string_view kTiedTo = "gpt_neox.embed_in.weight";  ///< this one

  /// Keys of published files that are constants, not parameters: causal masks and angles.
  [[nodiscard]] static bool is_buffer(std::string_view name) {
    return name.ends_with(".attention.bias") || name.ends_with(".attention.masked_bias") ||
           name.ends_with(".rotary_emb.inv_freq");
  }
  /// Whether weight decay applies to a shared parameter: to an untied head, never to embeddings and norms.
  [[nodiscard]] static bool decays(std::string_view name) { return name == kTiedKey; }

  /// A model of the blocks `numbers` of the full one; `source(full_name, shape)` gives each parameter once.
  /// \throws ArgumentError if a number is no block of the full model; ProtocolError for a tensor of another shape.
  template <class Source>
  [[nodiscard]] static GptNeox build(const GptNeoxConfig& config, std::span<const std::int64_t> numbers,
                                     Source&& source);

  /// (N) int64 -> (N, C). \throws ArgumentError for a token id outside the vocabulary.
  [[nodiscard]] at::Tensor embed(const at::Tensor& ids, const Sequences& s) const {
    ops::check_ids(ids, wte.size(0), s);
    return at::embedding(wte, ids);
  }
  /// Adds the gradient of the embedding, given dL/d(embed's result) (N, C).
  void embed_backward(const at::Tensor& d, const at::Tensor& ids, const Sequences&) const {
    if (wte.grad().defined()) ops::scatter_add_rows(wte.grad(), ids, d);
  }

  /// Calls `f(name, tensor&)` for every parameter outside the blocks; a tied head is not visited apart.
  template <class F>
  void visit_shared(F&& f) {
    f(std::string(kTiedTo), wte);
    head.norm->visit("gpt_neox.final_layer_norm", f);
    if (head.weight.defined()) f(std::string(kTiedKey), head.weight);
  }
};

template <>
struct BlockAccess<GptNeox> : TransformerBlocks<GptNeox, &GptNeox::blocks> {
  [[nodiscard]] static std::string block_prefix(std::int64_t number) {
    return "gpt_neox.layers." + std::to_string(number) + ".";
  }
};

template <class Source>
GptNeox GptNeox::build(const GptNeoxConfig& config, std::span<const std::int64_t> numbers, Source&& source) {
  config.check();
  check_block_numbers(numbers, config.num_hidden_layers);
  const detail::ParameterSource from(source);
  const auto C = config.hidden_size;
  const auto norm = [&](const std::string& name) { return from.norm(name, C, config.layer_norm_eps); };
  GptNeox m;
  m.config = config;
  m.wte = from.take(kTiedTo, {config.vocab_size, C});
  m.head.norm = norm("gpt_neox.final_layer_norm");
  if (!config.tie_word_embeddings) m.head.weight = from.take(kTiedKey, {config.vocab_size, C});
  const Rope rope(config.rope);  // one table of angles for all blocks
  for (const auto i : numbers) {
    const std::string at = BlockAccess<GptNeox>::block_prefix(i);
    auto& b = m.blocks.emplace_back();  // filled in place: see ParameterSource::norm
    b.index = i;
    b.residual = config.use_parallel_residual ? Residual::kParallel : Residual::kPreNorm;
    b.norm_1 = norm(at + "input_layernorm");
    b.attention.projection.all =
        from.linear(at + "attention.query_key_value", C, 3 * C, config.attention_bias);
    b.attention.projection.heads = config.num_attention_heads;
    b.attention.out = from.linear(at + "attention.dense", C, C, config.attention_bias);
    b.attention.options.heads = config.num_attention_heads;
    b.attention.options.scale = config.attention_scale();
    b.attention.rope = rope;
    b.norm_2 = norm(at + "post_attention_layernorm");
    b.mlp.in = from.linear(at + "mlp.dense_h_to_4h", C, config.intermediate_size);
    b.mlp.out = from.linear(at + "mlp.dense_4h_to_h", config.intermediate_size, C);
    b.mlp.activation = activation_of(config.hidden_act);
  }
  return m;
}

static_assert(CausalLm<GptNeox> && HandWrittenShared<GptNeox> && CheckpointModel<GptNeox>);
static_assert(BlockAccessor<BlockAccess<GptNeox>, GptNeox> && HandWrittenBackward<BlockAccess<GptNeox>>);
static_assert(SharesPrefixes<BlockAccess<GptNeox>> && CachesKeys<BlockAccess<GptNeox>>);

}  // namespace offsite
