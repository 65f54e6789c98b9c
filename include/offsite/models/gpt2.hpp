#pragma once
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <cmath>
#include <cstdint>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "offsite/blocks/block_access.hpp"
#include "offsite/core/random.hpp"
#include "offsite/core/tensor_view.hpp"
#include "offsite/models/causal_lm.hpp"
#include "offsite/models/checkpoint_model.hpp"
#include "offsite/models/gpt2_config.hpp"
#include "offsite/ops/activation.hpp"
#include "offsite/ops/attention.hpp"
#include "offsite/ops/dropout.hpp"
#include "offsite/ops/embedding.hpp"
#include "offsite/ops/linear.hpp"
#include "offsite/ops/norm.hpp"

namespace offsite {

/// One transformer layer of GPT-2: x += attention(norm(x)), then x += feed-forward(norm(x)).
struct Gpt2Block {
  std::int64_t index = 0;  ///< its number in the full model, wherever it stands
  std::int64_t heads = 12;
  double attention_scale = 0.125;
  Activation activation = Activation::kGeluTanh;
  LayerNorm ln_1;
  Linear c_attn;     ///< to queries, keys and values side by side
  Linear attn_proj;  ///< attn.c_proj
  LayerNorm ln_2;
  Linear c_fc;
  Linear mlp_proj;  ///< mlp.c_proj

  [[nodiscard]] std::int64_t width() const { return c_attn.in_features(); }
  /// Calls `f(name, tensor&)` for every parameter, under Hugging Face's names within a block.
  template <class F>
  void visit(F&& f) {
    ln_1.visit("ln_1", f);
    c_attn.visit("attn.c_attn", f);
    attn_proj.visit("attn.c_proj", f);
    ln_2.visit("ln_2", f);
    c_fc.visit("mlp.c_fc", f);
    mlp_proj.visit("mlp.c_proj", f);
  }
};

/// GPT-2 (Radford et al., "Language Models are Unsupervised Multitask Learners", 2019) as a plain struct of
/// tensors.
///
/// Weights stay in the published checkpoint's layout and type. It may hold some of the full model's blocks
/// only.
struct Gpt2 {
  static constexpr std::string_view kModelType = "gpt2";
  static constexpr std::string_view kKeyPrefix = "transformer.";  ///< which keys of some files lack
  static constexpr std::string_view kTiedKey = "lm_head.weight";  ///< if tied, a file may hold it, equal to
  static constexpr std::string_view kTiedTo = "transformer.wte.weight";  ///< this one

  Gpt2Config config;
  at::Tensor wte;  ///< (V, C) token embedding
  at::Tensor wpe;  ///< (context, C) position embedding
  LayerNorm ln_f;
  at::Tensor head;  ///< (V, C), or undefined if the head is `wte`
  std::vector<Gpt2Block> blocks;

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

  /// All blocks.
  template <class Source>
  [[nodiscard]] static Gpt2 build(const Gpt2Config& config, Source&& source) {
    std::vector<std::int64_t> all(static_cast<std::size_t>(config.n_layer));
    std::iota(all.begin(), all.end(), 0);
    return build(config, all, source);
  }

  /// Float32 weights as GPT-2 starts with: normal with deviation `initializer_range`, residual projections
  /// scaled by 1 / sqrt(2 n_layer), biases 0, norms 1. The same bits for the same seed on processors of one
  /// kind.
  [[nodiscard]] static Gpt2 random(const Gpt2Config& config, std::uint64_t seed);

  /// (N) int64 -> (N, C).
  /// \throws ArgumentError for a token id outside the vocabulary or a position outside the context.
  [[nodiscard]] at::Tensor embed(const at::Tensor& ids, const Sequences& s) const {
    ops::check_ids(ids, wte.size(0), s);
    ops::check_positions(s, wpe.size(0));
    return at::embedding(wte, ids).add(at::embedding(wpe, s.positions));
  }
  /// Adds the gradients of both embeddings, given dL/d(embed's result) (N, C).
  void embed_backward(const at::Tensor& d, const at::Tensor& ids, const Sequences& s) const {
    if (wte.grad().defined()) ops::scatter_add_rows(wte.grad(), ids, d);
    if (wpe.grad().defined()) ops::scatter_add_rows(wpe.grad(), s.positions, d);
  }

  [[nodiscard]] const at::Tensor& head_weight() const { return head.defined() ? head : wte; }

  /// (M, C) -> (M, V), differentiable by autograd.
  [[nodiscard]] at::Tensor logits(const at::Tensor& h) const {
    return at::linear(ln_f.forward(h), head_weight());
  }

  struct SavedHead {
    LayerNorm::Saved norm;
    at::Tensor normed;
  };
  /// The same without a graph, keeping what `logits_backward` needs.
  [[nodiscard]] at::Tensor logits(const at::Tensor& h, SavedHead& saved) const {
    c10::NoGradGuard no_grad;
    saved.normed = ln_f.forward(h, saved.norm, true);
    at::Tensor y = at::linear(saved.normed, head_weight());
    if (!head_weight().grad().defined()) saved.normed.reset();
    return y;
  }
  /// dL/d(logits) (M, V) -> dL/dh (M, C); adds the gradients of head and final norm where they train.
  [[nodiscard]] at::Tensor logits_backward(const at::Tensor& d, const SavedHead& saved) const {
    c10::NoGradGuard no_grad;
    const auto& weight = head_weight();
    if (weight.grad().defined()) Linear::add_product(weight.grad(), d.t(), saved.normed);
    return ln_f.backward(at::mm(d, weight), saved.norm);
  }

  /// Calls `f(name, tensor&)` for every parameter outside the blocks; a tied head is not visited apart.
  template <class F>
  void visit_shared(F&& f) {
    f(std::string(kTiedTo), wte);
    f(std::string("transformer.wpe.weight"), wpe);
    ln_f.visit("transformer.ln_f", f);
    if (head.defined()) f(std::string(kTiedKey), head);
  }
};

template <>
struct BlockAccess<Gpt2> : VectorBlocks<Gpt2, &Gpt2::blocks> {
  static constexpr bool kSharesPrefixes = true;

  [[nodiscard]] static std::string block_prefix(std::int64_t number) {
    return fmt::format("transformer.h.{}.", number);
  }

  template <class F>
  static void visit(Gpt2Block& b, F&& f) {
    b.visit(f);
  }

  /// The readable form, differentiable by autograd: the reference for the passes below, which training uses.
  [[nodiscard]] static at::Tensor forward(Gpt2Block& b, const at::Tensor& h, const Sequences& s) {
    const auto C = b.width();
    const at::Tensor qkv = b.c_attn.forward(b.ln_1.forward(h));
    const at::Tensor a =
        ops::attention_reference(qkv.narrow(1, 0, C), qkv.narrow(1, C, C), qkv.narrow(1, 2 * C, C),
                                 ops::AttentionPlan::of(s), attention_options(b));
    const at::Tensor x = h.add(b.attn_proj.forward(a));
    const at::Tensor u = b.c_fc.forward(b.ln_2.forward(x));
    return x.add(b.mlp_proj.forward(ops::activation_reference(u, b.activation)));
  }

  struct Saved {
    LayerNorm::Saved ln_1, ln_2;
    Linear::Saved c_attn, c_kv, attn_proj, c_fc, mlp_proj;  // with chosen rows, c_attn is its query part
    at::Tensor rows, q, k, v, lse;
    at::Tensor u;  // before the activation
    ops::AttentionPlan plan;
    ops::AttentionOptions attention;
    Dropout dropout;
  };

  /// (N, C) -> (N, C), or (M, C) with `pass.rows`: queries and everything after attention for those rows
  /// only.
  [[nodiscard]] static at::Tensor forward(Gpt2Block& b, const at::Tensor& h, const Sequences& s,
                                          const BlockPass& pass, Saved& saved) {
    c10::NoGradGuard no_grad;
    const auto C = b.width();
    const bool some = pass.rows.defined(), save = pass.save;
    saved.rows = pass.rows;
    saved.dropout = pass.dropout;
    saved.plan = ops::AttentionPlan::of(s, pass.rows);
    saved.attention = attention_options(b, pass.dropout);
    const at::Tensor n = b.ln_1.forward(h, saved.ln_1, save);
    at::Tensor q, k, v;
    if (some) {
      q = b.c_attn.slice(0, C).forward(n.index_select(0, pass.rows), saved.c_attn, save);
      const at::Tensor kv = b.c_attn.slice(C, 2 * C).forward(n, saved.c_kv, save);
      k = kv.narrow(1, 0, C);
      v = kv.narrow(1, C, C);
    } else {
      const at::Tensor qkv = b.c_attn.forward(n, saved.c_attn, save);
      q = qkv.narrow(1, 0, C);
      k = qkv.narrow(1, C, C);
      v = qkv.narrow(1, 2 * C, C);
    }
    auto [a, lse] = ops::attention(q, k, v, saved.plan, saved.attention);
    at::Tensor x = b.attn_proj.forward(a, saved.attn_proj, save);
    drop(x, b, s, saved, kAfterAttention);
    x.add_(some ? h.index_select(0, pass.rows) : h);
    at::Tensor u = b.c_fc.forward(b.ln_2.forward(x, saved.ln_2, save), saved.c_fc, save);
    at::Tensor g = save ? ops::activation(u, b.activation) : u;
    if (!save) ops::activation_out(u, b.activation, g);
    at::Tensor y = b.mlp_proj.forward(g, saved.mlp_proj, save);
    drop(y, b, s, saved, kAfterMlp);
    if (save) {
      saved.q = q;
      saved.k = k;
      saved.v = v;
      saved.lse = lse;
      saved.u = u;
    }
    return y.add_(x);
  }

  /// dL/dh (N, C), undefined unless `need_dh`; consumes `saved`.
  [[nodiscard]] static at::Tensor backward(Gpt2Block& b, const at::Tensor& dy, const Sequences& s,
                                           Saved& saved, bool need_dh) {
    c10::NoGradGuard no_grad;
    const auto C = b.width();
    at::Tensor du = b.mlp_proj.backward(dropped(dy, b, s, saved, kAfterMlp), saved.mlp_proj);
    ops::activation_backward_(du, saved.u, b.activation);
    saved.u.reset();
    saved.mlp_proj = {};
    at::Tensor dx = b.ln_2.backward(b.c_fc.backward(du, saved.c_fc), saved.ln_2);
    du.reset();
    dx.add_(dy);
    const at::Tensor da = b.attn_proj.backward(dropped(dx, b, s, saved, kAfterAttention), saved.attn_proj);

    const bool need_dn = need_dh || b.ln_1.weight.grad().defined() || b.ln_1.bias.grad().defined();
    at::Tensor dn;
    if (saved.rows.defined()) {
      const at::Tensor dq = at::empty({da.size(0), C}, dy.options()),
                       dkv = at::empty({s.rows(), 2 * C}, dy.options());
      ops::attention_backward(da, saved.q, saved.k, saved.v, saved.lse, dq, dkv.narrow(1, 0, C),
                              dkv.narrow(1, C, C), saved.plan, saved.attention);
      const at::Tensor dn_rows = b.c_attn.slice(0, C).backward(dq, saved.c_attn, need_dn);
      dn = b.c_attn.slice(C, 2 * C).backward(dkv, saved.c_kv, need_dn);
      if (need_dn) dn.index_add_(0, saved.rows, dn_rows);
    } else {
      const at::Tensor dqkv = at::empty({s.rows(), 3 * C}, dy.options());
      ops::attention_backward(da, saved.q, saved.k, saved.v, saved.lse, dqkv.narrow(1, 0, C),
                              dqkv.narrow(1, C, C), dqkv.narrow(1, 2 * C, C), saved.plan, saved.attention);
      dn = b.c_attn.backward(dqkv, saved.c_attn, need_dn);
    }
    if (!need_dn) return {};
    at::Tensor dh = b.ln_1.backward(dn, saved.ln_1, need_dh);
    if (!need_dh) return {};
    return saved.rows.defined() ? dh.index_add_(0, saved.rows, dx) : dh.add_(dx);
  }

  /// Keys and values of one sequence so far, in room for more.
  struct Cache {
    at::Tensor keys_values;   ///< (room, 2 C)
    std::int64_t length = 0;  ///< tokens in it
  };

  /// The next n tokens of the sequence in `cache`: (n, C) -> (n, C).
  [[nodiscard]] static at::Tensor forward(Gpt2Block& b, const at::Tensor& h, Cache& cache) {
    c10::NoGradGuard no_grad;
    const auto C = b.width(), count = h.size(0), total = cache.length + count;
    LayerNorm::Saved unused;
    const at::Tensor qkv = b.c_attn.forward(b.ln_1.forward(h, unused, false));
    if (!cache.keys_values.defined() || cache.keys_values.size(0) < total) {
      at::Tensor larger = at::empty({std::max<std::int64_t>(2 * total, 64), 2 * C}, qkv.options());
      if (cache.length > 0)
        larger.narrow(0, 0, cache.length).copy_(cache.keys_values.narrow(0, 0, cache.length));
      cache.keys_values = larger;
    }
    cache.keys_values.narrow(0, cache.length, count).copy_(qkv.narrow(1, C, 2 * C));
    cache.length = total;
    const at::Tensor seen = cache.keys_values.narrow(0, 0, total);
    const at::Tensor a = ops::attention(qkv.narrow(1, 0, C), seen.narrow(1, 0, C), seen.narrow(1, C, C),
                                        ops::AttentionPlan::tail(count, total), attention_options(b))
                             .out;
    const at::Tensor x = b.attn_proj.forward(a).add_(h);
    at::Tensor u = b.c_fc.forward(b.ln_2.forward(x, unused, false));
    ops::activation_out(u, b.activation, u);
    return b.mlp_proj.forward(u).add_(x);
  }

 private:
  enum Place : std::int64_t { kInAttention, kAfterAttention, kAfterMlp };  // what masks are keyed by

  static ops::AttentionOptions attention_options(const Gpt2Block& b, const Dropout& dropout = {}) {
    return {.heads = b.heads,
            .scale = b.attention_scale,
            .dropout = dropout.attention,
            .key = derive_key(dropout.key, b.index, kInAttention)};
  }
  /// Drops elements of `x`, the rows that `saved` is about, in place.
  static void drop(const at::Tensor& x, const Gpt2Block& b, const Sequences& s, const Saved& saved,
                   Place place) {
    const auto rate = saved.dropout.residual;
    if (rate > 0)
      ops::dropout_(x,
                    ops::residual_masks(s, saved.rows, rate, derive_key(saved.dropout.key, b.index), place));
  }
  static at::Tensor dropped(const at::Tensor& d, const Gpt2Block& b, const Sequences& s, const Saved& saved,
                            Place place) {
    if (saved.dropout.residual == 0) return d;
    at::Tensor copy = d.clone();
    drop(copy, b, s, saved, place);
    return copy;
  }
};

template <class Source>
Gpt2 Gpt2::build(const Gpt2Config& config, std::span<const std::int64_t> numbers, Source&& source) {
  config.check();
  const auto C = config.n_embd;
  const auto take = [&](std::string_view name, at::IntArrayRef shape) {
    at::Tensor t = source(name, shape);
    require<ProtocolError>(t.sizes() == shape, "{} has shape {}, but the configuration asks for {}", name,
                           shape_text(t.sizes()), shape_text(shape));
    return t;
  };
  const auto norm = [&](const std::string& name) {
    return LayerNorm{take(name + ".weight", {C}), take(name + ".bias", {C}), config.layer_norm_epsilon};
  };
  const auto linear = [&](const std::string& name, std::int64_t in, std::int64_t out) {
    return Linear{take(name + ".weight", {in, out}), take(name + ".bias", {out}), WeightLayout::kInOut};
  };
  Gpt2 m;
  m.config = config;
  m.wte = take(kTiedTo, {config.vocab_size, C});
  m.wpe = take("transformer.wpe.weight", {config.n_positions, C});
  m.ln_f = norm("transformer.ln_f");
  if (!config.tie_word_embeddings) m.head = take(kTiedKey, {config.vocab_size, C});
  for (const auto i : numbers) {
    require(0 <= i && i < config.n_layer, "block {} was asked for, but the model has {} blocks", i,
            config.n_layer);
    const std::string at = BlockAccess<Gpt2>::block_prefix(i);
    m.blocks.push_back({.index = i,
                        .heads = config.n_head,
                        .attention_scale = config.attention_scale(i),
                        .activation = activation_of(config.activation_function),
                        .ln_1 = norm(at + "ln_1"),
                        .c_attn = linear(at + "attn.c_attn", C, 3 * C),
                        .attn_proj = linear(at + "attn.c_proj", C, C),
                        .ln_2 = norm(at + "ln_2"),
                        .c_fc = linear(at + "mlp.c_fc", C, config.inner_width()),
                        .mlp_proj = linear(at + "mlp.c_proj", config.inner_width(), C)});
  }
  return m;
}

inline Gpt2 Gpt2::random(const Gpt2Config& config, std::uint64_t seed) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  const double deviation = config.initializer_range;
  const double residual = deviation / std::sqrt(2.0 * static_cast<double>(config.n_layer));
  return build(config, [&](std::string_view name, at::IntArrayRef shape) {
    if (name.ends_with(".bias")) return at::zeros(shape, at::kFloat);
    if (shape.size() == 1) return at::ones(shape, at::kFloat);
    return at::empty(shape, at::kFloat)
        .normal_(0, name.ends_with("c_proj.weight") ? residual : deviation, generator);
  });
}

static_assert(CausalLm<Gpt2> && HandWrittenShared<Gpt2> && CheckpointModel<Gpt2>);
static_assert(BlockAccessor<BlockAccess<Gpt2>, Gpt2> && HandWrittenBackward<BlockAccess<Gpt2>>);
static_assert(SharesPrefixes<BlockAccess<Gpt2>> && CachesKeys<BlockAccess<Gpt2>>);

}  // namespace offsite
