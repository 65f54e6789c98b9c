#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "offsite/core/sequences.hpp"
#include "offsite/ops/absorbed_attention.hpp"
#include "offsite/ops/attention.hpp"
#include "offsite/ops/head_norms.hpp"
#include "offsite/ops/linear.hpp"
#include "offsite/ops/projections.hpp"
#include "offsite/ops/rope.hpp"

namespace offsite {

/// Keys and values of one sequence so far, in room for more.
struct KeyValueCache {
  at::Tensor keys, values;  ///< (room, width) or (room, heads, depth)
  std::int64_t length = 0;  ///< tokens in it

  /// Appends those of the next tokens; returns all so far.
  std::pair<at::Tensor, at::Tensor> append(const at::Tensor& k, const at::Tensor& v) {
    grow(keys, k);
    grow(values, v);
    length += k.size(0);
    return {keys.narrow(0, 0, length), values.narrow(0, 0, length)};
  }

 private:
  void grow(at::Tensor& to, const at::Tensor& more) const {
    const auto total = length + more.size(0);
    if (!to.defined() || to.size(0) < total) {
      auto shape = more.sizes().vec();
      shape[0] = std::max<std::int64_t>(2 * total, 64);
      const at::Tensor larger = at::empty(shape, more.options());
      if (length > 0) larger.narrow(0, 0, length).copy_(to.narrow(0, 0, length));
      to = larger;
    }
    to.narrow(0, length, more.size(0)).copy_(more);
  }
};

/// Attention of each sequence to itself between its projections; `Projection` is one of ops/projections.hpp.
template <class Projection>
struct SelfAttention {
  Projection projection;  ///< to queries, keys and values
  Linear out;
  ops::AttentionOptions options;  ///< heads, scale and the like; a pass adds dropout
  HeadNorms norms{};              ///< of queries and keys, if there are any
  Rope rope{};                    ///< turns queries and keys by their positions, if it turns anything

  struct Saved {
    typename Projection::Saved projection;
    HeadNorms::Saved norms;
    Linear::Saved out, asking;  // `asking` and `absorbed` instead of the rest where few queries ask
    AbsorbedAttention::Saved absorbed;
    Qkv qkv;
    at::Tensor rows, lse;
    RopeRows queries, keys;  // the angles of their rows
    ops::AttentionPlan plan;
    ops::AttentionOptions options;
  };

  /// (N, C) -> (N, C), differentiable by autograd.
  [[nodiscard]] at::Tensor forward(const at::Tensor& n, const Sequences& s) const {
    const Qkv qkv = norms.forward(projection.forward(n), options);
    const RopeRows angles = rope.rows(s);
    return out.forward(ops::attention_reference(ops::rope_reference(qkv.q, options.heads, angles),
                                                ops::rope_reference(qkv.k, options.key_heads(), angles),
                                                qkv.v, ops::AttentionPlan::of(s), options));
  }

  /// The same without a graph, or (N, C) -> (M, C): the queries of `rows` only if they are defined.
  /// \param dropout  of probabilities; `key` draws the masks
  [[nodiscard]] at::Tensor forward(const at::Tensor& n, const Sequences& s, const at::Tensor& rows,
                                   double dropout, std::uint64_t key, Saved& saved, bool save) const {
    saved.rows = rows;
    saved.plan = ops::AttentionPlan::of(s, rows);
    saved.options = options;
    saved.absorbed = {};
    saved.options.dropout = dropout;
    saved.options.key = key;
    if constexpr (kSeparates)
      if (rows.defined() && !norms.q && !norms.k && !rope.turns()) {
        const SeparateProjections& parts = projection.separate();
        if (AbsorbedAttention::serves(n, parts.k, parts.v, saved.plan, saved.options)) {
          const at::Tensor q = parts.q.forward(n.index_select(0, rows), saved.asking, save);
          return out.forward(AbsorbedAttention::forward(q, n, parts.k, parts.v, saved.plan, saved.options,
                                                        saved.absorbed, save),
                             saved.out, save);
        }
      }
    Qkv qkv = projection.forward(n, rows, saved.projection, save);
    norms.forward_(qkv, options, saved.norms, save);
    saved.keys = rope.rows(s);
    saved.queries = rows.defined() ? rope.rows(s, rows) : saved.keys;
    turn(qkv, saved.queries, saved.keys);
    auto [a, lse] = ops::attention(qkv.q, qkv.k, qkv.v, saved.plan, saved.options);
    if (save) {
      saved.qkv = std::move(qkv);
      saved.lse = lse;
    }
    return out.forward(a, saved.out, save);
  }

  /// dL/dn (N, C), undefined unless `need`; adds the gradients of trained tensors.
  [[nodiscard]] at::Tensor backward(const at::Tensor& d, const Sequences& s, const Saved& saved,
                                    bool need) const {
    const at::Tensor da = out.backward(d, saved.out);
    if constexpr (kSeparates)
      if (saved.absorbed.asked.defined()) {
        const SeparateProjections& parts = projection.separate();
        auto [dq, dn] = AbsorbedAttention::backward(da, parts.k, parts.v, saved.absorbed);
        const at::Tensor dn_rows = parts.q.backward(dq, saved.asking, need);
        return need ? dn.index_add_(0, saved.rows, dn_rows) : at::Tensor{};
      }
    return projection.backward(da, s.rows(), saved.rows, saved.projection, need,
                               [&](const Qkv& to) { fill(to, da, saved); });
  }
  /// The same of all rows, with `f(layer, dL/dy, saved)` for each projection's own pass.
  template <class F>
  void backward(const at::Tensor& d, const Sequences& s, const Saved& saved, F&& f) const {
    const at::Tensor da = out.backward(d, saved.out);
    projection.backward(
        da, s.rows(), saved.projection, [&](const Qkv& to) { fill(to, da, saved); }, f);
  }

  /// The next n tokens of the sequence in `cache`: (n, C) -> (n, C).
  [[nodiscard]] at::Tensor forward(const at::Tensor& n, KeyValueCache& cache) const {
    HeadNorms::Saved unused;
    Qkv qkv = projection.forward(n);
    norms.forward_(qkv, options, unused, false);
    const RopeRows angles = rope.tail(n.size(0), cache.length + n.size(0));
    turn(qkv, angles, angles);
    const auto [keys, values] = cache.append(qkv.k, qkv.v);
    return out.forward(
        ops::attention(qkv.q, keys, values, ops::AttentionPlan::tail(n.size(0), cache.length), options).out);
  }

 private:
  static constexpr bool kSeparates = requires(const Projection& p) { p.separate(); };

  /// Writes the gradients of queries, keys and values; `da` is that of what is seen.
  void fill(const Qkv& to, const at::Tensor& da, const Saved& saved) const {
    ops::attention_backward(da, saved.qkv.q, saved.qkv.k, saved.qkv.v, saved.lse, to.q, to.k, to.v,
                            saved.plan, saved.options);
    turn(to, saved.queries, saved.keys, true);
    norms.backward_(to, options, saved.norms);
  }

  void turn(const Qkv& x, const RopeRows& queries, const RopeRows& keys, bool backward = false) const {
    ops::rope_(x.q, options.heads, queries, backward);
    ops::rope_(x.k, options.key_heads(), keys, backward);
  }
};

}  // namespace offsite
