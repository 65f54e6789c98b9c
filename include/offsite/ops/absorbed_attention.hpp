#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "offsite/ops/accumulate.hpp"
#include "offsite/ops/attention.hpp"
#include "offsite/ops/linear.hpp"
#include "offsite/ops/product.hpp"

namespace offsite {

/// Attention of few queries to keys and values that are linear in the same rows x, without computing any: with
/// k = x W_k + b_k and v = x W_v + b_v a head's scores are q k^T = (q W_k^T) x^T + q b_k, and what it sees is
/// P v = (P x) W_v + b_v. So queries are taken through W_k, look at x itself, and what they saw is taken through W_v:
/// work for every query instead of every row. (The weights are "absorbed", as in DeepSeek-V2, arXiv:2405.04434, section
/// 2.1.2.) The term q b_k is the same for all keys of a query, so softmax takes nothing from it, and b_k's gradient is 0.
///
/// In the last block of a client's step, where scored rows alone ask, this saves nearly all of the work on keys and
/// values: of GPT-2 small's 248 million operations a token, 7.
struct AbsorbedAttention {
  struct Saved {
    at::Tensor q, x;
    ops::AttentionPlan plan;  // of rows of `asked`
    ops::AttentionOptions options;
    at::Tensor asked{}, seen{};  ///< q W_k^T and P x (M, heads, C); undefined = nothing was absorbed
    at::Tensor lse{};
  };

  /// Whether `x` (N, C) can be asked like that, and it pays: `options` and layers without what tells heads or places of keys
  /// apart, few queries, and sequences whose rows, all C wide, fit into a cache.
  [[nodiscard]] static bool serves(const at::Tensor& x, const Linear& k, const Linear& v,
                                   const ops::AttentionPlan& plan, const ops::AttentionOptions& options) {
    const auto plain = [](const Linear& l) { return !l.low_rank.defined() && !l.bottleneck.defined(); };
    if (!x.is_cpu() || !ops::detail::is_fast(x) || !plain(k) || !plain(v) || options.dropout > 0 ||
        !options.alibi_slopes.empty() || options.key_heads() != options.heads)
      return false;
    std::int64_t pairs = 0, longest = 0;
    for (const auto& span : plan.spans) {
      pairs += span.queries * (span.keys + span.prefix_keys);
      longest = std::max(longest, span.keys + span.prefix_keys);
    }
    const auto depth = k.out_features() / options.heads;
    return kShare * pairs <= depth * plan.key_rows && longest * x.size(1) <= kMostNumbers;
  }

  /// Queries `q` (M, C) to rows `x` (N, C) -> what they see of the values, (M, C).
  [[nodiscard]] static at::Tensor forward(const at::Tensor& q, const at::Tensor& x, const Linear& k,
                                          const Linear& v, const ops::AttentionPlan& plan,
                                          const ops::AttentionOptions& options, Saved& saved, bool save) {
    Saved s{.q = q, .x = x, .plan = by_head(plan, options.heads), .options = options};
    s.options.heads = s.options.kv_heads = 1;
    s.asked = at::empty({q.size(0), options.heads, x.size(1)}, q.options());
    multiply(s.asked, heads_of(q, options.heads), weights_of(k, options.heads));
    auto result = ops::attention(s.asked.flatten(0, 1), x, x, s.plan, s.options);
    s.seen = result.out.view(s.asked.sizes());
    s.lse = result.lse;
    const at::Tensor out = at::empty({q.size(0), v.out_features()}, q.options());
    multiply(heads_of(out, options.heads), s.seen, weights_of(v, options.heads).transpose(1, 2));
    if (v.bias.defined()) out.add_(v.bias);
    if (save) saved = std::move(s);
    return out;
  }

  /// dL/dq (M, C) and dL/dx (N, C) of what `forward` gave; adds the gradients of trained tensors.
  [[nodiscard]] static std::pair<at::Tensor, at::Tensor> backward(const at::Tensor& d_out, const Linear& k,
                                                                  const Linear& v, const Saved& saved) {
    const auto heads = saved.asked.size(1);
    const at::Tensor d = heads_of(d_out, heads), q = heads_of(saved.q, heads);
    if (v.bias.defined() && v.bias.grad().defined()) ops::accumulate_rows(v.bias.grad(), d_out);
    add_gradients(v, saved.seen, d);
    const at::Tensor d_seen = at::empty_like(saved.seen), d_asked = at::empty_like(saved.asked);
    multiply(d_seen, d, weights_of(v, heads));
    const at::Tensor dx = at::empty_like(saved.x), of_keys = at::empty_like(saved.x),
                     dq = at::empty_like(saved.q);
    ops::attention_backward(d_seen.flatten(0, 1), saved.asked.flatten(0, 1), saved.x, saved.x, saved.lse,
                            d_asked.flatten(0, 1), of_keys, dx, saved.plan, saved.options);
    ops::accumulate(dx, of_keys);
    add_gradients(k, d_asked, q);
    multiply(heads_of(dq, heads), d_asked, weights_of(k, heads).transpose(1, 2));
    return {dq, dx};
  }

 private:
  // A query costs as much here as heads x width / depth rows' keys and values would at the same speed, which is lower.
  static constexpr std::int64_t kShare = 8, kMostNumbers = 1 << 20;

  /// (M, heads * depth) -> (M, heads, depth)
  [[nodiscard]] static at::Tensor heads_of(const at::Tensor& t, std::int64_t heads) {
    return t.view({t.size(0), heads, t.size(1) / heads});
  }
  /// The weight as (heads, depth, C), whatever its layout.
  [[nodiscard]] static at::Tensor weights_of(const Linear& l, std::int64_t heads) {
    const at::Tensor w = l.out_in();
    return w.view({heads, w.size(0) / heads, w.size(1)});
  }
  /// y (M, heads, n) = x (M, heads, m) times w (heads, m, n), head by head: at::bmm compiles itself anew for every M.
  static void multiply(const at::Tensor& y, const at::Tensor& x, const at::Tensor& w) {
    for (std::int64_t h = 0; h < x.size(1); ++h) y.select(1, h).copy_(ops::product(x.select(1, h), w[h]));
  }
  /// Adds to the weight's gradient what heads of outputs' gradients `d` (M, heads, depth) and of inputs `x` (M, heads, C)
  /// give.
  static void add_gradients(const Linear& l, const at::Tensor& x, const at::Tensor& d) {
    const at::Tensor& gradient = l.weight.grad();
    if (!gradient.defined()) return;
    const bool in_out = l.layout == WeightLayout::kInOut;
    for (std::int64_t h = 0, depth = d.size(2); h < d.size(1); ++h)
      ops::add_gradient(gradient.narrow(in_out ? 1 : 0, h * depth, depth), (in_out ? x : d).select(1, h),
                        (in_out ? d : x).select(1, h));
  }
  /// The plan of queries whose heads are rows of their own.
  [[nodiscard]] static ops::AttentionPlan by_head(const ops::AttentionPlan& plan, std::int64_t heads) {
    ops::AttentionPlan result{
        .spans = plan.spans, .positions = {}, .key_rows = plan.key_rows, .shares = plan.shares};
    for (auto& span : result.spans) span.query *= heads, span.queries *= heads;
    for (const auto position : plan.positions)
      result.positions.insert(result.positions.end(), static_cast<std::size_t>(heads), position);
    return result;
  }
};

}  // namespace offsite
