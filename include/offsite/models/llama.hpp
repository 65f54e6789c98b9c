#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/embedding.h>
#include <c10/core/GradMode.h>

#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "offsite/blocks/transformer_block.hpp"
#include "offsite/core/sequences.hpp"
#include "offsite/models/causal_lm.hpp"
#include "offsite/models/checkpoint_model.hpp"
#include "offsite/models/llama_config.hpp"
#include "offsite/models/transformer_lm.hpp"
#include "offsite/ops/embedding.hpp"
#include "offsite/ops/gated_mlp.hpp"
#include "offsite/ops/rms_norm.hpp"

namespace offsite {

/// One transformer layer of the Llama family.
struct LlamaBlock : TransformerBlock<RmsNorm, SelfAttention<SeparateProjections>, GatedMlp> {
  /// Calls `f(name, tensor&)` for every parameter, under Hugging Face's names within a block.
  template <class F>
  void visit(F&& f) {
    norm_1.visit("input_layernorm", f);
    attention.projection.q.visit("self_attn.q_proj", f);
    attention.projection.k.visit("self_attn.k_proj", f);
    attention.projection.v.visit("self_attn.v_proj", f);
    attention.norms.visit("self_attn.", f);
    attention.out.visit("self_attn.o_proj", f);
    norm_2.visit("post_attention_layernorm", f);
    mlp.gate.visit("mlp.gate_proj", f);
    mlp.up.visit("mlp.up_proj", f);
    mlp.down.visit("mlp.down_proj", f);
  }
};

/// The Llama family as a plain struct of tensors: Llama 1 to 3 (Touvron et al., arXiv:2302.13971; arXiv:2407.21783),
/// Mistral (arXiv:2310.06825), Qwen2 and Qwen3 (arXiv:2412.15115; arXiv:2505.09388), Gemma 1 (arXiv:2403.08295).
struct Llama : TransformerLm<LlamaConfig, LlamaBlock, RmsNorm> {
  static constexpr std::string_view kModelTypes = "llama, mistral, qwen2, qwen3, gemma";  ///< for messages
  static constexpr std::string_view kModelType = "llama";         ///< and others: see `accepts`
  static constexpr std::string_view kKeyPrefix = "model.";        ///< which keys of some files lack
  static constexpr std::string_view kTiedKey = "lm_head.weight";  ///< if tied, a file may hold it, equal to
  static constexpr std::string_view kTiedTo = "model.embed_tokens.weight";  ///< this one

  /// Whether configurations of that `model_type` are of the family.
  [[nodiscard]] static bool accepts(std::string_view model_type) { return LlamaConfig::accepts(model_type); }
  /// Keys of published files that are constants, not parameters: wavelengths of rotary embeddings.
  [[nodiscard]] static bool is_buffer(std::string_view name) {
    return name.ends_with(".rotary_emb.inv_freq");
  }
  /// Whether weight decay applies to a shared parameter: to an untied head, never to embeddings and norms.
  [[nodiscard]] static bool decays(std::string_view name) { return name == kTiedKey; }

  /// A model of the blocks `numbers` of the full one; `source(full_name, shape)` gives each parameter once.
  /// \throws ArgumentError if a number is no block of the full model; ProtocolError for a tensor of another shape.
  template <class Source>
  [[nodiscard]] static Llama build(const LlamaConfig& config, std::span<const std::int64_t> numbers,
                                   Source&& source);

  /// (N) int64 -> (N, C). Positions have no limit here: rotary embeddings reach as far as they are asked to.
  /// \throws ArgumentError for a token id outside the vocabulary.
  [[nodiscard]] at::Tensor embed(const at::Tensor& ids, const Sequences& s) const {
    ops::check_ids(ids, wte.size(0), s);
    const at::Tensor x = at::embedding(wte, ids);
    return config.kind().gemma ? x.mul(embedding_scale()) : x;
  }
  /// Adds the gradient of the embedding, given dL/d(embed's result) (N, C).
  void embed_backward(const at::Tensor& d, const at::Tensor& ids, const Sequences&) const {
    c10::NoGradGuard no_grad;
    if (!wte.grad().defined()) return;
    ops::scatter_add_rows(wte.grad(), ids, config.kind().gemma ? d.mul(embedding_scale()) : d);
  }

  /// Calls `f(name, tensor&)` for every parameter outside the blocks; a tied head is not visited apart.
  template <class F>
  void visit_shared(F&& f) {
    f(std::string(kTiedTo), wte);
    if (head.norm) head.norm->visit("model.norm", f);
    if (head.weight.defined()) f(std::string(kTiedKey), head.weight);
  }

 private:
  /// sqrt(C) rounded to the type of the embedding, as Gemma was trained.
  [[nodiscard]] double embedding_scale() const {
    const auto scale = static_cast<float>(std::sqrt(static_cast<double>(config.hidden_size)));
    return wte.scalar_type() == at::kBFloat16 ? static_cast<float>(c10::BFloat16(scale)) : scale;
  }
};

template <>
struct BlockAccess<Llama> : TransformerBlocks<Llama, &Llama::blocks> {
  [[nodiscard]] static std::string block_prefix(std::int64_t number) {
    return "model.layers." + std::to_string(number) + ".";
  }
};

template <class Source>
Llama Llama::build(const LlamaConfig& config, std::span<const std::int64_t> numbers, Source&& source) {
  config.check();
  check_block_numbers(numbers, config.num_hidden_layers);
  const detail::ParameterSource from(source);
  const auto& kind = config.kind();
  const auto C = config.hidden_size, inner = config.intermediate_size;
  const auto queries = config.num_attention_heads * config.head_width(),
             keys = config.key_value_heads() * config.head_width();
  const auto norm = [&](const std::string& name, std::int64_t width) {
    RmsNorm made;
    made.weight = from.take(name + ".weight", {width});
    made.eps = config.rms_norm_eps;
    made.zero_centred = kind.gemma;
    return made;
  };
  Llama m;
  m.config = config;
  m.wte = from.take(kTiedTo, {config.vocab_size, C});
  m.head.norm = norm("model.norm", C);
  if (!config.tie_word_embeddings) m.head.weight = from.take(kTiedKey, {config.vocab_size, C});
  const Rope rope(config.rope);
  const bool biased = config.query_key_value_biases();
  for (const auto i : numbers) {
    const std::string at = BlockAccess<Llama>::block_prefix(i);
    auto& b = m.blocks.emplace_back();  // filled in place: see ParameterSource::norm
    b.index = i;
    b.norm_1 = norm(at + "input_layernorm", C);
    b.norm_2 = norm(at + "post_attention_layernorm", C);
    b.attention.projection.q = from.linear(at + "self_attn.q_proj", C, queries, biased);
    b.attention.projection.k = from.linear(at + "self_attn.k_proj", C, keys, biased);
    b.attention.projection.v = from.linear(at + "self_attn.v_proj", C, keys, biased);
    b.attention.out = from.linear(at + "self_attn.o_proj", queries, C, config.attention_bias);
    b.attention.options = {.heads = config.num_attention_heads,
                           .kv_heads = config.key_value_heads(),
                           .scale = config.attention_scale(),
                           .window = config.window(i)};
    if (kind.head_norms) {
      b.attention.norms.q = norm(at + "self_attn.q_norm", config.head_width());
      b.attention.norms.k = norm(at + "self_attn.k_norm", config.head_width());
    }
    b.attention.rope = rope;
    b.mlp.gate = from.linear(at + "mlp.gate_proj", C, inner, config.mlp_bias);
    b.mlp.up = from.linear(at + "mlp.up_proj", C, inner, config.mlp_bias);
    b.mlp.down = from.linear(at + "mlp.down_proj", inner, C, config.mlp_bias);
    b.mlp.activation = activation_of(config.hidden_act);
  }
  return m;
}

static_assert(CausalLm<Llama> && HandWrittenShared<Llama> && CheckpointModel<Llama>);
static_assert(BlockAccessor<BlockAccess<Llama>, Llama> && HandWrittenBackward<BlockAccess<Llama>>);
static_assert(SharesPrefixes<BlockAccess<Llama>> && CachesKeys<BlockAccess<Llama>>);

}  // namespace offsite
