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
#include "offsite/models/gpt2_config.hpp"
#include "offsite/models/transformer_lm.hpp"
#include "offsite/ops/embedding.hpp"
#include "offsite/ops/mlp.hpp"

namespace offsite {

/// One transformer layer of GPT-2, whose one matrix gives queries, keys and values side by side.
struct Gpt2Block : TransformerBlock<LayerNorm, SelfAttention<FusedProjection>, Mlp> {
  /// Calls `f(name, tensor&)` for every parameter, under Hugging Face's names within a block.
  template <class F>
  void visit(F&& f) {
    norm_1.visit("ln_1", f);
    attention.projection.all.visit("attn.c_attn", f);
    attention.out.visit("attn.c_proj", f);
    norm_2.visit("ln_2", f);
    mlp.in.visit("mlp.c_fc", f);
    mlp.out.visit("mlp.c_proj", f);
  }
};

/// GPT-2 (Radford et al., "Language Models are Unsupervised Multitask Learners", 2019) as a plain struct of
/// tensors.
struct Gpt2 : TransformerLm<Gpt2Config, Gpt2Block> {
  static constexpr std::string_view kModelType = "gpt2";
  static constexpr std::string_view kKeyPrefix = "transformer.";  ///< which keys of some files lack
  static constexpr std::string_view kTiedKey = "lm_head.weight";  ///< if tied, a file may hold it, equal to
  static constexpr std::string_view kTiedTo = "transformer.wte.weight";  ///< this one

  at::Tensor wpe;  ///< (context, C) position embedding

  /// Keys of published files that are constants, not parameters: causal masks.
  [[nodiscard]] static bool is_buffer(std::string_view name) {
    return name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias");
  }

  /// Whether weight decay applies to a shared parameter: to an untied head, never to embeddings and norms.
  [[nodiscard]] static bool decays(std::string_view name) { return name == kTiedKey; }

  /// A model of the blocks `numbers` of the full one; `source(full_name, shape)` gives each parameter once.
  /// \throws ArgumentError if a number is no block of the full model; ProtocolError for a tensor of another
  /// shape.
  template <class Source>
  [[nodiscard]] static Gpt2 build(const Gpt2Config& config, std::span<const std::int64_t> numbers,
                                  Source&& source);

  template <class Source>
  [[nodiscard]] static Gpt2 build(const Gpt2Config& config, Source&& source) {
    return build_model<Gpt2>(config, source);
  }

  /// Weights as GPT-2 starts with: see `random_model`.
  [[nodiscard]] static Gpt2 random(const Gpt2Config& config, std::uint64_t seed) {
    return random_model<Gpt2>(config, seed);
  }

  /// (N) int64 -> (N, C).
  /// \throws ArgumentError for a token id outside the vocabulary or a position outside the context.
  [[nodiscard]] at::Tensor embed(const at::Tensor& ids, const Sequences& s) const {
    ops::check_ids(ids, wte.size(0), s);
    ops::check_positions(s, wpe.size(0));
    return at::embedding(wte, ids.to(wte.device())).add(at::embedding(wpe, s.positions.to(wpe.device())));
  }
  /// Adds the gradients of both embeddings, given dL/d(embed's result) (N, C).
  void embed_backward(const at::Tensor& d, const at::Tensor& ids, const Sequences& s) const {
    if (wte.grad().defined()) ops::scatter_add_rows(wte.grad(), ids, d);
    if (wpe.grad().defined()) ops::scatter_add_rows(wpe.grad(), s.positions, d);
  }

  /// Calls `f(name, tensor&)` for every parameter outside the blocks; a tied head is not visited apart.
  template <class F>
  void visit_shared(F&& f) {
    f(std::string(kTiedTo), wte);
    f(std::string("transformer.wpe.weight"), wpe);
    head.norm->visit("transformer.ln_f", f);
    if (head.weight.defined()) f(std::string(kTiedKey), head.weight);
  }
};

template <>
struct BlockAccess<Gpt2> : TransformerBlocks<Gpt2, &Gpt2::blocks> {
  [[nodiscard]] static std::string block_prefix(std::int64_t number) {
    return "transformer.h." + std::to_string(number) + ".";
  }
};

template <class Source>
Gpt2 Gpt2::build(const Gpt2Config& config, std::span<const std::int64_t> numbers, Source&& source) {
  config.check();
  check_block_numbers(numbers, config.n_layer);
  const detail::ParameterSource from(source);
  const auto C = config.n_embd;
  const auto norm = [&](const std::string& name) { return from.norm(name, C, config.layer_norm_epsilon); };
  const auto linear = [&](const std::string& name, std::int64_t in, std::int64_t out) {
    return from.linear(name, in, out, true, WeightLayout::kInOut);
  };
  Gpt2 m;
  m.config = config;
  m.wte = from.take(kTiedTo, {config.vocab_size, C});
  m.wpe = from.take("transformer.wpe.weight", {config.n_positions, C});
  m.head.norm = norm("transformer.ln_f");
  if (!config.tie_word_embeddings) m.head.weight = from.take(kTiedKey, {config.vocab_size, C});
  for (const auto i : numbers) {
    const std::string at = BlockAccess<Gpt2>::block_prefix(i);
    auto& b = m.blocks.emplace_back();  // filled in place: see ParameterSource::norm
    b.index = i;
    b.norm_1 = norm(at + "ln_1");
    b.attention.projection.all = linear(at + "attn.c_attn", C, 3 * C);
    b.attention.out = linear(at + "attn.c_proj", C, C);
    b.attention.options.heads = config.n_head;
    b.attention.options.scale = config.attention_scale(i);
    b.norm_2 = norm(at + "ln_2");
    b.mlp.in = linear(at + "mlp.c_fc", C, config.inner_width());
    b.mlp.out = linear(at + "mlp.c_proj", config.inner_width(), C);
    b.mlp.activation = activation_of(config.activation_function);
  }
  return m;
}

static_assert(CausalLm<Gpt2> && HandWrittenShared<Gpt2> && CheckpointModel<Gpt2>);
static_assert(BlockAccessor<BlockAccess<Gpt2>, Gpt2> && HandWrittenBackward<BlockAccess<Gpt2>>);
static_assert(SharesPrefixes<BlockAccess<Gpt2>> && CachesKeys<BlockAccess<Gpt2>>);

}  // namespace offsite
