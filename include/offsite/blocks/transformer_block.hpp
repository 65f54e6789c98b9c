#pragma once
#include <ATen/core/Tensor.h>
#include <c10/core/GradMode.h>

#include <cstdint>

#include "offsite/blocks/block_access.hpp"
#include "offsite/core/random.hpp"
#include "offsite/ops/accumulate.hpp"
#include "offsite/ops/behind_norm.hpp"
#include "offsite/ops/dropout.hpp"
#include "offsite/ops/self_attention.hpp"

namespace offsite {

/// How a transformer block adds attention and feed-forward to its input h, with norms n1 and n2.
enum class Residual : std::uint8_t {
  kPreNorm,   ///< x = h + attention(n1(h)); y = x + mlp(n2(x))
  kPostNorm,  ///< x = n1(h + attention(h)); y = n2(x + mlp(x))
  kNormed,    ///< a = n1(h), m = n2(a + attention(a)); y = m + mlp(m)
  kParallel,  ///< y = h + attention(n1(h)) + mlp(n2(h))
};

/// One layer of a transformer out of its parts; a model's block adds only its parameters' names.
///
/// `Norm` and `FeedForward` are as `LayerNorm` and `Mlp`, `Attention` as `SelfAttention`.
template <class Norm, class Attention, class FeedForward>
struct TransformerBlock {
  std::int64_t index = 0;  ///< its number in the full model, wherever it stands
  Residual residual = Residual::kPreNorm;
  Norm norm_1;
  Attention attention;
  Norm norm_2;
  FeedForward mlp;

  struct Saved {
    typename Norm::Saved norm_1, norm_2;
    typename Attention::Saved attention;
    typename FeedForward::Saved mlp;
    Dropout dropout;
  };
};

/// The accessor of models of `TransformerBlock`s in a vector; it lacks `block_prefix` only.
template <class Model, auto Blocks>
struct TransformerBlocks : VectorBlocks<Model, Blocks> {
  using typename VectorBlocks<Model, Blocks>::Block;
  using Saved = typename Block::Saved;
  using Cache = KeyValueCache;
  static constexpr bool kSharesPrefixes = true;

  template <class F>
  static void visit(Block& b, F&& f) {
    b.visit(f);
  }

  /// The readable form, differentiable by autograd: the reference for the passes below, which training uses.
  [[nodiscard]] static at::Tensor forward(Block& b, const at::Tensor& h, const Sequences& s) {
    return arranged(b.residual, h, Reference{b, s});
  }

  /// (N, C) -> (N, C), or (M, C) with `pass.rows`: queries and everything after attention for those rows only.
  [[nodiscard]] static at::Tensor forward(Block& b, const at::Tensor& h, const Sequences& s,
                                          const BlockPass& pass, Saved& saved) {
    c10::NoGradGuard no_grad;
    saved.dropout = pass.dropout;
    return arranged(b.residual, h, HandWritten{b, s, pass, saved});
  }

  /// The next n tokens of the sequence in `cache`: (n, C) -> (n, C).
  [[nodiscard]] static at::Tensor forward(Block& b, const at::Tensor& h, Cache& cache) {
    c10::NoGradGuard no_grad;
    Saved unused;
    return arranged(b.residual, h, Cached{b, cache, unused});
  }

  /// dL/dh (N, C), undefined unless `need_dh`; consumes `saved`.
  [[nodiscard]] static at::Tensor backward(Block& b, const at::Tensor& dy, const Sequences& s, Saved& saved,
                                           bool need_dh) {
    c10::NoGradGuard no_grad;
    const bool post = b.residual == Residual::kPostNorm, normed = b.residual == Residual::kNormed;
    const at::Tensor d = post ? b.norm_2.backward(dy, saved.norm_2) : dy;
    at::Tensor dx = b.mlp.backward(dropped(d, b, s, saved, kAfterMlp), saved.mlp);  // of what mlp takes
    if (post || normed) ops::accumulate(dx, d);
    dx = post ? b.norm_1.backward(dx, saved.norm_1)
              : b.norm_2.backward(dx, saved.norm_2, true, normed ? at::Tensor{} : d);
    const at::Tensor& to_attention = b.residual == Residual::kParallel ? d : dx;

    if (!need_dh && !post && !normed && !saved.attention.rows.defined() && b.norm_1.trains()) {
      BehindNorm behind(b.norm_1, saved.norm_1);
      b.attention.backward(dropped(to_attention, b, s, saved, kAfterAttention), s, saved.attention,
                           [&](const Linear& layer, const at::Tensor& d_out, const Linear::Saved& kept) {
                             behind.backward(layer, d_out, kept);
                           });
      return {};
    }
    const bool need_dn = need_dh || (!post && b.norm_1.trains());
    at::Tensor dn = b.attention.backward(dropped(to_attention, b, s, saved, kAfterAttention), s,
                                         saved.attention, need_dn);
    if (!need_dn) return {};
    const at::Tensor& rows = saved.attention.rows;
    const auto add_dx = [&](at::Tensor& to) {
      if (rows.defined())
        to.index_add_(0, rows, dx);
      else
        ops::accumulate(to, dx);
    };
    if (post || normed) add_dx(dn);
    if (post) return dn;
    const bool at_once = !normed && !rows.defined();
    at::Tensor dh = b.norm_1.backward(dn, saved.norm_1, need_dh, at_once ? dx : at::Tensor{});
    if (need_dh && !normed && !at_once) add_dx(dh);
    return dh;
  }

 private:
  enum Place : std::int64_t { kInAttention, kAfterAttention, kAfterMlp };  // what masks are keyed by

  /// The order of a block's steps. What they return is fresh, so sums are taken in place, for autograd too; a norm's second
  /// argument is added to its first one before.
  template <class Steps>
  static at::Tensor arranged(Residual residual, const at::Tensor& h, const Steps& steps) {
    const bool post = residual == Residual::kPostNorm, normed = residual == Residual::kNormed;
    const at::Tensor n = post ? h : steps.norm_1(h);
    at::Tensor x = steps.attend(n);
    steps.drop(x, kAfterAttention);
    if (residual == Residual::kParallel) {
      const at::Tensor own = steps.wanted(h);
      at::Tensor y = steps.feed(steps.norm_2(own));
      if (!y.defined()) return y;
      steps.drop(y, kAfterMlp);
      steps.add(y, x);
      steps.add(y, own);
      return y;
    }
    const at::Tensor own = steps.wanted(normed ? n : h),
                     m = post ? steps.norm_1(x, own) : steps.norm_2(x, own);
    at::Tensor y = steps.feed(m);
    if (!y.defined()) return y;
    steps.drop(y, kAfterMlp);
    if (post) return steps.norm_2(y, m);
    steps.add(y, normed ? m : x);
    return y;
  }

  struct Reference {
    const Block& b;
    const Sequences& s;
    at::Tensor norm_1(const at::Tensor& x) const { return b.norm_1.forward(x); }
    at::Tensor norm_2(const at::Tensor& x) const { return b.norm_2.forward(x); }
    at::Tensor norm_1(const at::Tensor& x, const at::Tensor& y) const { return b.norm_1.forward(x.add_(y)); }
    at::Tensor norm_2(const at::Tensor& x, const at::Tensor& y) const { return b.norm_2.forward(x.add_(y)); }
    void add(const at::Tensor& to, const at::Tensor& x) const { to.add_(x); }
    at::Tensor attend(const at::Tensor& n) const { return b.attention.forward(n, s); }
    at::Tensor feed(const at::Tensor& m) const { return b.mlp.forward(m); }
    at::Tensor wanted(const at::Tensor& x) const { return x; }
    void drop(const at::Tensor&, Place) const {}
  };

  struct HandWritten {
    const Block& b;
    const Sequences& s;
    const BlockPass& pass;
    Saved& saved;
    at::Tensor norm_1(const at::Tensor& x, const at::Tensor& y = {}) const {
      return b.norm_1.forward(x, saved.norm_1, pass.save, y);
    }
    at::Tensor norm_2(const at::Tensor& x, const at::Tensor& y = {}) const {
      return b.norm_2.forward(x, saved.norm_2, pass.save, y);
    }
    void add(const at::Tensor& to, const at::Tensor& x) const { ops::accumulate(to, x); }
    at::Tensor attend(const at::Tensor& n) const {
      const auto key = derive_key(pass.dropout.key, b.index, kInAttention);
      return b.attention.forward(n, s, pass.rows, pass.dropout.attention, key, saved.attention, pass.save);
    }
    at::Tensor feed(const at::Tensor& m) const {
      // Its result is the block's, but for a norm behind it.
      if (pass.output || b.residual == Residual::kPostNorm) return b.mlp.forward(m, saved.mlp, pass.save);
      b.mlp.save(m, saved.mlp);
      return {};
    }
    at::Tensor wanted(const at::Tensor& x) const {
      return pass.rows.defined() ? x.index_select(0, pass.rows) : x;
    }
    void drop(const at::Tensor& x, Place place) const { TransformerBlocks::drop(x, b, s, saved, place); }
  };

  struct Cached {
    const Block& b;
    Cache& cache;
    Saved& unused;
    at::Tensor norm_1(const at::Tensor& x, const at::Tensor& y = {}) const {
      return b.norm_1.forward(x, unused.norm_1, false, y);
    }
    at::Tensor norm_2(const at::Tensor& x, const at::Tensor& y = {}) const {
      return b.norm_2.forward(x, unused.norm_2, false, y);
    }
    void add(const at::Tensor& to, const at::Tensor& x) const { ops::accumulate(to, x); }
    at::Tensor attend(const at::Tensor& n) const { return b.attention.forward(n, cache); }
    at::Tensor feed(const at::Tensor& m) const { return b.mlp.forward(m, unused.mlp, false); }
    at::Tensor wanted(const at::Tensor& x) const { return x; }
    void drop(const at::Tensor&, Place) const {}
  };

  /// Drops elements of `x`, the rows that the pass is about, in place.
  static void drop(const at::Tensor& x, const Block& b, const Sequences& s, const Saved& saved, Place place) {
    const auto rate = saved.dropout.residual;
    if (rate > 0)
      ops::dropout_(x, ops::residual_masks(s, saved.attention.rows, rate,
                                           derive_key(saved.dropout.key, b.index), place));
  }
  static at::Tensor dropped(const at::Tensor& d, const Block& b, const Sequences& s, const Saved& saved,
                            Place place) {
    if (saved.dropout.residual == 0) return d;
    at::Tensor copy = d.clone();
    drop(copy, b, s, saved, place);
    return copy;
  }
};

}  // namespace offsite
