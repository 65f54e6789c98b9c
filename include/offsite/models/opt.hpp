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
#include "offsite/models/causal_lm.hpp"
#include "offsite/models/checkpoint_model.hpp"
#include "offsite/models/opt_config.hpp"
#include "offsite/models/transformer_lm.hpp"
#include "offsite/ops/embedding.hpp"
#include "offsite/ops/mlp.hpp"

namespace offsite {

/// One transformer layer of OPT.
struct OptBlock : TransformerBlock<LayerNorm, SelfAttention<SeparateProjections>, Mlp> {
  /// Calls `f(name, tensor&)` for every parameter, under Hugging Face's names within a block.
  template <class F>
  void visit(F&& f) {
    norm_1.visit("self_attn_layer_norm", f);
    attention.projection.q.visit("self_attn.q_proj", f);
    attention.projection.k.visit("self_attn.k_proj", f);
    attention.projection.v.visit("self_attn.v_proj", f);
    attention.out.visit("self_attn.out_proj", f);
    norm_2.visit("final_layer_norm", f);
    mlp.in.visit("fc1", f);
    mlp.out.visit("fc2", f);
  }
};

/// OPT (Zhang et al., "OPT: Open Pre-trained Transformer Language Models", arXiv:2205.01068) as a plain struct of
/// tensors.
struct Opt : TransformerLm<OptConfig, OptBlock> {
  static constexpr std::string_view kModelType = "opt";
  static constexpr std::string_view kKeyPrefix = "model.";        ///< which keys of some files lack
  static constexpr std::string_view kTiedKey = "lm_head.weight";  ///< if tied, a file may hold it, equal to
  static constexpr std::string_view kTiedTo = "model.decoder.embed_tokens.weight";  ///< this one
  static constexpr std::int64_t kPositionOffset =
      2;  ///< rows of the position table before the first position's

  at::Tensor positions;  ///< (context + 2, C)
  Linear project_in;     ///< from the token embedding's width to C; without a weight if they are the same

  /// Keys of published files that are constants, not parameters: none.
  [[nodiscard]] static bool is_buffer(std::string_view) { return false; }
  /// Whether weight decay applies to a shared parameter: to an untied head, never to embeddings and norms.
  [[nodiscard]] static bool decays(std::string_view name) { return name == kTiedKey; }

  /// A model of the blocks `numbers` of the full one; `source(full_name, shape)` gives each parameter once.
  /// \throws ArgumentError if a number is no block of the full model; ProtocolError for a tensor of another shape.
  template <class Source>
  [[nodiscard]] static Opt build(const OptConfig& config, std::span<const std::int64_t> numbers,
                                 Source&& source);

  /// (N) int64 -> (N, C).
  /// \throws ArgumentError for a token id outside the vocabulary or a position outside the context.
  [[nodiscard]] at::Tensor embed(const at::Tensor& ids, const Sequences& s) const {
    ops::check_ids(ids, wte.size(0), s);
    ops::check_positions(s, positions.size(0) - kPositionOffset);
    at::Tensor x = at::embedding(wte, ids);
    if (project_in.weight.defined()) x = project_in.forward(x);
    return x.add(at::embedding(positions, s.positions.add(kPositionOffset)));
  }
  /// Adds the gradients of what `embed` uses, given dL/d(its result) (N, C).
  void embed_backward(const at::Tensor& d, const at::Tensor& ids, const Sequences& s) const {
    c10::NoGradGuard no_grad;
    if (positions.grad().defined())
      ops::scatter_add_rows(positions.grad(), s.positions.add(kPositionOffset), d);
    at::Tensor dx = d;
    if (project_in.weight.defined()) {
      Linear::Saved saved;
      if (project_in.weight.grad().defined()) saved.x = at::embedding(wte, ids);
      dx = project_in.backward(d, saved, wte.grad().defined());
    }
    if (wte.grad().defined()) ops::scatter_add_rows(wte.grad(), ids, dx);
  }

  /// Calls `f(name, tensor&)` for every parameter outside the blocks; a tied head is not visited apart.
  template <class F>
  void visit_shared(F&& f) {
    f(std::string(kTiedTo), wte);
    f(std::string("model.decoder.embed_positions.weight"), positions);
    if (project_in.weight.defined()) project_in.visit("model.decoder.project_in", f);
    if (head.norm) head.norm->visit("model.decoder.final_layer_norm", f);
    if (head.project.weight.defined()) head.project.visit("model.decoder.project_out", f);
    if (head.weight.defined()) f(std::string(kTiedKey), head.weight);
  }
};

template <>
struct BlockAccess<Opt> : TransformerBlocks<Opt, &Opt::blocks> {
  [[nodiscard]] static std::string block_prefix(std::int64_t number) {
    return "model.decoder.layers." + std::to_string(number) + ".";
  }
};

template <class Source>
Opt Opt::build(const OptConfig& config, std::span<const std::int64_t> numbers, Source&& source) {
  config.check();
  check_block_numbers(numbers, config.num_hidden_layers);
  const detail::ParameterSource from(source);
  const auto C = config.hidden_size, E = config.embedding_width();
  const auto norm = [&](const std::string& name) {
    return config.layer_norm_elementwise_affine ? from.norm(name, C, 1e-5) : LayerNorm{};
  };
  const auto linear = [&](const std::string& name, std::int64_t in, std::int64_t out) {
    return from.linear(name, in, out, config.enable_bias);
  };
  Opt m;
  m.config = config;
  m.wte = from.take(kTiedTo, {config.vocab_size, E});
  m.positions = from.take("model.decoder.embed_positions.weight",
                          {config.max_position_embeddings + kPositionOffset, C});
  if (config.has_final_norm()) m.head.norm = norm("model.decoder.final_layer_norm");
  if (E != C) {
    m.project_in = from.linear("model.decoder.project_in", E, C, false);
    m.head.project = from.linear("model.decoder.project_out", C, E, false);
  }
  if (!config.tie_word_embeddings) m.head.weight = from.take(kTiedKey, {config.vocab_size, E});
  for (const auto i : numbers) {
    const std::string at = BlockAccess<Opt>::block_prefix(i);
    auto& b = m.blocks.emplace_back();  // filled in place: see ParameterSource::norm
    b.index = i;
    b.residual = config.do_layer_norm_before ? Residual::kPreNorm : Residual::kPostNorm;
    b.norm_1 = norm(at + "self_attn_layer_norm");
    b.attention.projection.q = linear(at + "self_attn.q_proj", C, C);
    b.attention.projection.k = linear(at + "self_attn.k_proj", C, C);
    b.attention.projection.v = linear(at + "self_attn.v_proj", C, C);
    b.attention.out = linear(at + "self_attn.out_proj", C, C);
    b.attention.options.heads = config.num_attention_heads;
    b.attention.options.scale = config.attention_scale();
    b.norm_2 = norm(at + "final_layer_norm");
    b.mlp.in = linear(at + "fc1", C, config.ffn_dim);
    b.mlp.out = linear(at + "fc2", config.ffn_dim, C);
    b.mlp.activation = activation_of(config.activation_function);
  }
  return m;
}

static_assert(CausalLm<Opt> && HandWrittenShared<Opt> && CheckpointModel<Opt>);
static_assert(BlockAccessor<BlockAccess<Opt>, Opt> && HandWrittenBackward<BlockAccess<Opt>>);
static_assert(SharesPrefixes<BlockAccess<Opt>> && CachesKeys<BlockAccess<Opt>>);

}  // namespace offsite
