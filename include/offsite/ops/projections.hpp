#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <cstdint>

#include "offsite/ops/accumulate.hpp"
#include "offsite/ops/linear.hpp"

namespace offsite {

/// Queries (M, C), keys and values (N, C) of one attention, rows of any stride; or (M, heads, depth) and so on.
struct Qkv {
  at::Tensor q, k, v;
};

// Each struct below is one way that checkpoints lay out the three projections. Its members:
//
//   forward(n)                            (N, C) -> queries, keys and values, differentiable by autograd
//   forward(n, rows, saved, save)         the same without a graph; queries of `rows` only if they are defined
//   backward(like, count, rows, saved, need, fill)
//                                         calls `fill(d)` with a Qkv of empty tensors for the gradients (of the type
//                                         of `like`; `count` = N); adds the gradients of trained tensors;
//                                         dL/dn (N, C), undefined unless `need`
//   backward(like, count, saved, fill, f)
//                                         the same of all rows, with `f(layer, dL/dy, saved)` for each layer's pass
//   separate()                            the three as layers of their own that share the tensors, if they can be;
//                                         not of a layer with a bottleneck

/// Three matrices, as in OPT; keys and values may be narrower than queries.
struct SeparateProjections {
  Linear q, k, v;

  struct Saved {
    Linear::Saved q, k, v;
  };

  [[nodiscard]] const SeparateProjections& separate() const { return *this; }
  [[nodiscard]] Qkv forward(const at::Tensor& n) const { return {q.forward(n), k.forward(n), v.forward(n)}; }
  [[nodiscard]] Qkv forward(const at::Tensor& n, const at::Tensor& rows, Saved& saved, bool save) const {
    return {q.forward(rows.defined() ? n.index_select(0, rows) : n, saved.q, save),
            k.forward(n, saved.k, save), v.forward(n, saved.v, save)};
  }
  template <class Fill>
  [[nodiscard]] at::Tensor backward(const at::Tensor& like, std::int64_t count, const at::Tensor& rows,
                                    const Saved& saved, bool need, Fill&& fill) const {
    const auto queries = rows.defined() ? rows.numel() : count;
    const Qkv d{at::empty({queries, q.out_features()}, like.options()),
                at::empty({count, k.out_features()}, like.options()),
                at::empty({count, v.out_features()}, like.options())};
    fill(d);
    const at::Tensor of_q = q.backward(d.q, saved.q, need), of_k = k.backward(d.k, saved.k, need);
    at::Tensor dn = v.backward(d.v, saved.v, need);
    if (!need) return {};
    ops::accumulate(dn, of_k);
    if (rows.defined()) return dn.index_add_(0, rows, of_q);
    ops::accumulate(dn, of_q);
    return dn;
  }
  template <class Fill, class F>
  void backward(const at::Tensor& like, std::int64_t count, const Saved& saved, Fill&& fill, F&& f) const {
    const auto room = [&](const Linear& l) { return at::empty({count, l.out_features()}, like.options()); };
    const Qkv d{room(q), room(k), room(v)};
    fill(d);
    f(q, d.q, saved.q), f(k, d.k, saved.k), f(v, d.v, saved.v);
  }
};

/// One matrix to queries, keys and values side by side, as in GPT-2.
struct FusedProjection {
  Linear all;  ///< to 3 C features

  struct Saved {
    Linear::Saved all, keys_values;  // with chosen rows, `all` is of the queries
  };

  [[nodiscard]] SeparateProjections separate() const {
    const auto C = all.out_features() / 3;
    return {all.slice(0, C), all.slice(C, C), all.slice(2 * C, C)};
  }
  [[nodiscard]] Qkv forward(const at::Tensor& n) const { return split(all.forward(n)); }
  [[nodiscard]] Qkv forward(const at::Tensor& n, const at::Tensor& rows, Saved& saved, bool save) const {
    if (!rows.defined()) return split(all.forward(n, saved.all, save));
    const auto C = all.out_features() / 3;
    at::Tensor q = all.slice(0, C).forward(n.index_select(0, rows), saved.all, save);
    const at::Tensor kv = all.slice(C, 2 * C).forward(n, saved.keys_values, save);
    return {q, kv.narrow(1, 0, C), kv.narrow(1, C, C)};
  }
  template <class Fill>
  [[nodiscard]] at::Tensor backward(const at::Tensor& like, std::int64_t count, const at::Tensor& rows,
                                    const Saved& saved, bool need, Fill&& fill) const {
    const auto C = all.out_features() / 3;
    if (!rows.defined()) {
      at::Tensor dn;
      backward(like, count, saved, fill,
               [&](const Linear& layer, const at::Tensor& d, const Linear::Saved& kept) {
                 dn = layer.backward(d, kept, need);
               });
      return dn;
    }
    const at::Tensor dq = at::empty({rows.numel(), C}, like.options()),
                     dkv = at::empty({count, 2 * C}, like.options());
    fill(Qkv{dq, dkv.narrow(1, 0, C), dkv.narrow(1, C, C)});
    const at::Tensor dn_rows = all.slice(0, C).backward(dq, saved.all, need);
    at::Tensor dn = all.slice(C, 2 * C).backward(dkv, saved.keys_values, need);
    return need ? dn.index_add_(0, rows, dn_rows) : at::Tensor{};
  }
  template <class Fill, class F>
  void backward(const at::Tensor& like, std::int64_t count, const Saved& saved, Fill&& fill, F&& f) const {
    const at::Tensor d = at::empty({count, all.out_features()}, like.options());
    fill(split(d));
    f(all, d, saved.all);
  }

 private:
  static Qkv split(const at::Tensor& x) {
    const auto C = x.size(1) / 3;
    return {x.narrow(1, 0, C), x.narrow(1, C, C), x.narrow(1, 2 * C, C)};
  }
};

/// One matrix whose features are each head's query, key and value in turn, as in BLOOM and GPT-NeoX.
///
/// Chosen rows save nothing here: the features of queries are no slice of the matrix.
struct InterleavedProjection {
  Linear all;  ///< to (heads, 3, depth) features
  std::int64_t heads = 1;

  using Saved = Linear::Saved;

  [[nodiscard]] Qkv forward(const at::Tensor& n) const { return split(all.forward(n)); }
  [[nodiscard]] Qkv forward(const at::Tensor& n, const at::Tensor& rows, Saved& saved, bool save) const {
    Qkv parts = split(all.forward(n, saved, save));
    if (rows.defined()) parts.q = parts.q.index_select(0, rows);
    return parts;
  }
  template <class Fill>
  [[nodiscard]] at::Tensor backward(const at::Tensor& like, std::int64_t count, const at::Tensor& rows,
                                    const Saved& saved, bool need, Fill&& fill) const {
    const at::Tensor whole = at::empty({count, all.out_features()}, like.options());
    const Qkv d = split(whole);
    if (rows.defined()) {
      const at::Tensor dq = at::empty({rows.numel(), heads, d.q.size(2)}, like.options());
      fill(Qkv{dq, d.k, d.v});
      d.q.zero_().index_copy_(0, rows, dq);
    } else {
      fill(d);
    }
    return all.backward(whole, saved, need);
  }
  template <class Fill, class F>
  void backward(const at::Tensor& like, std::int64_t count, const Saved& saved, Fill&& fill, F&& f) const {
    const at::Tensor d = at::empty({count, all.out_features()}, like.options());
    fill(split(d));
    f(all, d, saved);
  }

 private:
  [[nodiscard]] Qkv split(
      const at::Tensor& x) const {  // (rows, heads * 3 * depth) -> 3 of (rows, heads, depth)
    const at::Tensor parts = x.view({x.size(0), heads, 3, x.size(1) / (3 * heads)});
    return {parts.select(2, 0), parts.select(2, 1), parts.select(2, 2)};
  }
};

}  // namespace offsite
