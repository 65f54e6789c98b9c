#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/embedding.h>
#include <c10/core/GradMode.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "offsite/blocks/transformer_block.hpp"
#include "offsite/core/sequences.hpp"
#include "offsite/models/bloom_config.hpp"
#include "offsite/models/causal_lm.hpp"
#include "offsite/models/checkpoint_model.hpp"
#include "offsite/models/transformer_lm.hpp"
#include "offsite/ops/embedding.hpp"
#include "offsite/ops/mlp.hpp"

namespace offsite {

/// One transformer layer of BLOOM, whose attention is biased by the distance of tokens.
struct BloomBlock : TransformerBlock<LayerNorm, SelfAttention<InterleavedProjection>, Mlp> {
  /// Calls `f(name, tensor&)` for every parameter, under Hugging Face's names within a block.
  template <class F>
  void visit(F&& f) {
    norm_1.visit("input_layernorm", f);
    attention.projection.all.visit("self_attention.query_key_value", f);
    attention.out.visit("self_attention.dense", f);
    norm_2.visit("post_attention_layernorm", f);
    mlp.in.visit("mlp.dense_h_to_4h", f);
    mlp.out.visit("mlp.dense_4h_to_h", f);
  }
};

/// BLOOM (BigScience, "BLOOM: A 176B-Parameter Open-Access Multilingual Language Model", arXiv:2211.05100) as a plain
/// struct of tensors.
struct Bloom : TransformerLm<BloomConfig, BloomBlock> {
  static constexpr std::string_view kModelType = "bloom";
  static constexpr std::string_view kKeyPrefix = "transformer.";  ///< which keys of some files lack
  static constexpr std::string_view kTiedKey = "lm_head.weight";  ///< if tied, a file may hold it, equal to
  static constexpr std::string_view kTiedTo = "transformer.word_embeddings.weight";  ///< this one

  LayerNorm embedding_norm;  ///< of the token embeddings

  /// Keys of published files that are constants, not parameters: none.
  [[nodiscard]] static bool is_buffer(std::string_view) { return false; }
  /// Whether weight decay applies to a shared parameter: to an untied head, never to embeddings and norms.
  [[nodiscard]] static bool decays(std::string_view name) { return name == kTiedKey; }

  /// A model of the blocks `numbers` of the full one; `source(full_name, shape)` gives each parameter once.
  /// \throws ArgumentError if a number is no block of the full model; ProtocolError for a tensor of another shape.
  template <class Source>
  [[nodiscard]] static Bloom build(const BloomConfig& config, std::span<const std::int64_t> numbers,
                                   Source&& source);

  /// (N) int64 -> (N, C). \throws ArgumentError for a token id outside the vocabulary.
  [[nodiscard]] at::Tensor embed(const at::Tensor& ids, const Sequences& s) const {
    ops::check_ids(ids, wte.size(0), s);
    return embedding_norm.forward(at::embedding(wte, ids));
  }
  /// Adds the gradients of what `embed` uses, given dL/d(its result) (N, C).
  void embed_backward(const at::Tensor& d, const at::Tensor& ids, const Sequences&) const {
    c10::NoGradGuard no_grad;
    const bool trains = wte.grad().defined();
    if (!trains && !embedding_norm.trains()) return;
    LayerNorm::Saved saved;
    (void)embedding_norm.forward(at::embedding(wte, ids), saved, true);
    const at::Tensor dx = embedding_norm.backward(d, saved, trains);
    if (trains) ops::scatter_add_rows(wte.grad(), ids, dx);
  }

  /// Calls `f(name, tensor&)` for every parameter outside the blocks; a tied head is not visited apart.
  template <class F>
  void visit_shared(F&& f) {
    f(std::string(kTiedTo), wte);
    embedding_norm.visit("transformer.word_embeddings_layernorm", f);
    head.norm->visit("transformer.ln_f", f);
    if (head.weight.defined()) f(std::string(kTiedKey), head.weight);
  }
};

template <>
struct BlockAccess<Bloom> : TransformerBlocks<Bloom, &Bloom::blocks> {
  [[nodiscard]] static std::string block_prefix(std::int64_t number) {
    return "transformer.h." + std::to_string(number) + ".";
  }
};

template <class Source>
Bloom Bloom::build(const BloomConfig& config, std::span<const std::int64_t> numbers, Source&& source) {
  config.check();
  check_block_numbers(numbers, config.n_layer);
  const detail::ParameterSource from(source);
  const auto C = config.hidden_size;
  const auto norm = [&](const std::string& name) { return from.norm(name, C, config.layer_norm_epsilon); };
  Bloom m;
  m.config = config;
  m.wte = from.take(kTiedTo, {config.vocab_size, C});
  m.embedding_norm = norm("transformer.word_embeddings_layernorm");
  m.head.norm = norm("transformer.ln_f");
  if (!config.tie_word_embeddings) m.head.weight = from.take(kTiedKey, {config.vocab_size, C});
  for (const auto i : numbers) {
    const std::string at = BlockAccess<Bloom>::block_prefix(i);
    const bool normed = config.apply_residual_connection_post_layernorm;
    auto& b = m.blocks.emplace_back();  // filled in place: see ParameterSource::norm
    b.index = i;
    b.residual = normed ? Residual::kNormed : Residual::kPreNorm;
    b.norm_1 = norm(at + "input_layernorm");
    b.attention.projection.all = from.linear(at + "self_attention.query_key_value", C, 3 * C);
    b.attention.projection.heads = config.n_head;
    b.attention.out = from.linear(at + "self_attention.dense", C, C);
    b.attention.options.heads = config.n_head;
    b.attention.options.scale = config.attention_scale();
    b.attention.options.alibi_slopes = alibi_slopes(config.n_head);
    b.norm_2 = norm(at + "post_attention_layernorm");
    b.mlp.in = from.linear(at + "mlp.dense_h_to_4h", C, 4 * C);
    b.mlp.out = from.linear(at + "mlp.dense_4h_to_h", 4 * C, C);
  }
  return m;
}

static_assert(CausalLm<Bloom> && HandWrittenShared<Bloom> && CheckpointModel<Bloom>);
static_assert(BlockAccessor<BlockAccess<Bloom>, Bloom> && HandWrittenBackward<BlockAccess<Bloom>>);
static_assert(SharesPrefixes<BlockAccess<Bloom>> && CachesKeys<BlockAccess<Bloom>>);

}  // namespace offsite
