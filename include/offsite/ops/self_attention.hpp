#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "offsite/core/sequences.hpp"
#include "offsite/ops/attention.hpp"
#include "offsite/ops/linear.hpp"
#include "offsite/ops/projections.hpp"

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

  struct Saved {
    typename Projection::Saved projection;
    Linear::Saved out;
    Qkv qkv;
    at::Tensor rows, lse;
    ops::AttentionPlan plan;
    ops::AttentionOptions options;
  };

  /// (N, C) -> (N, C), differentiable by autograd.
  [[nodiscard]] at::Tensor forward(const at::Tensor& n, const Sequences& s) const {
    const auto [q, k, v] = projection.forward(n);
    return out.forward(ops::attention_reference(q, k, v, ops::AttentionPlan::of(s), options));
  }

  /// The same without a graph, or (N, C) -> (M, C): the queries of `rows` only if they are defined.
  /// \param dropout  of probabilities; `key` draws the masks
  [[nodiscard]] at::Tensor forward(const at::Tensor& n, const Sequences& s, const at::Tensor& rows,
                                   double dropout, std::uint64_t key, Saved& saved, bool save) const {
    saved.rows = rows;
    saved.plan = ops::AttentionPlan::of(s, rows);
    saved.options = options;
    saved.options.dropout = dropout;
    saved.options.key = key;
    Qkv qkv = projection.forward(n, rows, saved.projection, save);
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
    return projection.backward(da, s.rows(), saved.rows, saved.projection, need, [&](const Qkv& to) {
      ops::attention_backward(da, saved.qkv.q, saved.qkv.k, saved.qkv.v, saved.lse, to.q, to.k, to.v,
                              saved.plan, saved.options);
    });
  }

  /// The next n tokens of the sequence in `cache`: (n, C) -> (n, C).
  [[nodiscard]] at::Tensor forward(const at::Tensor& n, KeyValueCache& cache) const {
    const auto [q, k, v] = projection.forward(n);
    const auto [keys, values] = cache.append(k, v);
    return out.forward(
        ops::attention(q, keys, values, ops::AttentionPlan::tail(n.size(0), cache.length), options).out);
  }
};

}  // namespace offsite
