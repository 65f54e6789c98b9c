#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cstdint>

#include "offsite/core/error.hpp"
#include "offsite/ops/attention_plan.hpp"

namespace offsite::ops {
namespace detail {

/// Attention of packed rows as ATen's own kernels want it: sequences side by side, padded to the longest. What is padded
/// comes after all that counts, so causal attention needs no mask, and accelerators take their flash kernel.
class PaddedSequences {
 public:
  PaddedSequences(const AttentionPlan& plan, const AttentionOptions& options, const c10::Device& device)
      : options_(options) {
    require(options.dropout == 0 && options.window == 0 && options.alibi_slopes.empty() && !plan.shares,
            "attention on {} knows no dropout, window, linear biases or shared prefixes", device.str());
    for (const auto& span : plan.spans) longest_ = std::max(longest_, span.keys);
    count_ = static_cast<std::int64_t>(plan.spans.size());
    const at::Tensor queries = at::empty({static_cast<std::int64_t>(plan.positions.size())}, at::kLong),
                     keys = at::empty({plan.key_rows}, at::kLong);
    auto *query = queries.mutable_data_ptr<std::int64_t>(), *key = keys.mutable_data_ptr<std::int64_t>();
    for (std::int64_t n = 0; n < count_; ++n) {
      const auto& span = plan.spans[static_cast<std::size_t>(n)];
      for (std::int64_t i = span.query; i < span.query + span.queries; ++i)
        query[i] = n * longest_ + plan.positions[static_cast<std::size_t>(i)];
      for (std::int64_t i = 0; i < span.keys; ++i) key[span.key + i] = n * longest_ + i;
    }
    queries_ = queries.to(device);
    keys_ = keys.to(device);
  }

  [[nodiscard]] at::Tensor queries(const at::Tensor& q) const { return padded(q, queries_, options_.heads); }
  [[nodiscard]] at::Tensor keys(const at::Tensor& k) const { return padded(k, keys_, options_.key_heads()); }
  /// (S, heads, T, depth) -> the rows that they are of, (rows, heads * depth).
  [[nodiscard]] at::Tensor query_rows(const at::Tensor& x) const { return rows(x, queries_); }
  [[nodiscard]] at::Tensor key_rows(const at::Tensor& x) const { return rows(x, keys_); }

  [[nodiscard]] at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) const {
    return at::scaled_dot_product_attention(q, k, v, {}, 0, true, options_.scale,
                                            options_.heads != options_.key_heads());
  }

 private:
  [[nodiscard]] at::Tensor padded(const at::Tensor& x, const at::Tensor& places, std::int64_t heads) const {
    const at::Tensor flat = x.flatten(1);
    return at::zeros({count_ * longest_, flat.size(1)}, flat.options())
        .index_copy_(0, places, flat)
        .view({count_, longest_, heads, -1})
        .transpose(1, 2);
  }
  [[nodiscard]] static at::Tensor rows(const at::Tensor& x, const at::Tensor& places) {
    return x.transpose(1, 2).flatten(2).flatten(0, 1).index_select(0, places);
  }

  AttentionOptions options_;
  std::int64_t count_ = 0, longest_ = 0;
  at::Tensor queries_, keys_;  // the place of each row among the padded ones
};

}  // namespace detail

/// `attention` for tensors that are not on the CPU, by ATen's operators; without the logarithms.
[[nodiscard]] inline at::Tensor padded_attention(const at::Tensor& q, const at::Tensor& k,
                                                 const at::Tensor& v, const AttentionPlan& plan,
                                                 const AttentionOptions& options) {
  const detail::PaddedSequences padded(plan, options, q.device());
  return padded.query_rows(padded.attend(padded.queries(q), padded.keys(k), padded.keys(v)));
}

/// `attention_backward` for such tensors: computes the forward pass again, with a graph.
inline void padded_attention_backward(const at::Tensor& dout, const at::Tensor& q, const at::Tensor& k,
                                      const at::Tensor& v, const at::Tensor& dq, const at::Tensor& dk,
                                      const at::Tensor& dv, const AttentionPlan& plan,
                                      const AttentionOptions& options) {
  const detail::PaddedSequences padded(plan, options, q.device());
  at::Tensor leaf_q = padded.queries(q), leaf_k = padded.keys(k), leaf_v = padded.keys(v);
  for (auto* leaf : {&leaf_q, &leaf_k, &leaf_v}) leaf->set_requires_grad(true);
  {
    const c10::AutoGradMode grad(true);
    padded.attend(leaf_q, leaf_k, leaf_v).backward(padded.queries(dout));
  }
  dq.copy_(padded.query_rows(leaf_q.grad()).view_as(dq));
  dk.copy_(padded.key_rows(leaf_k.grad()).view_as(dk));
  dv.copy_(padded.key_rows(leaf_v.grad()).view_as(dv));
}

}  // namespace offsite::ops
