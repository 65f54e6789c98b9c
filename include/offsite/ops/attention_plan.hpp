#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/core/sequences.hpp"
#include "offsite/ops/dropout.hpp"

namespace offsite::ops {

/// How attention is computed, and how its probabilities are dropped while training.
struct AttentionOptions {
  std::int64_t heads = 1;     ///< of queries
  std::int64_t kv_heads = 0;  ///< of keys and values, each shared by heads / kv_heads query heads; 0 = heads
  double scale = 1;           ///< of the products of queries and keys, > 0
  std::int64_t window = 0;    ///< how many of the last keys a query sees, its own among them; 0 = all
  double dropout = 0;         ///< rate, in [0, 1)
  std::uint64_t key = 0;      ///< of the masks, with the block's number in it
  /// One a head: slope * (key's position - query's position) is added to the scaled products (ALiBi: Press,
  /// Smith, Lewis, arXiv:2108.12409). Empty = none.
  std::vector<float> alibi_slopes{};

  [[nodiscard]] std::int64_t key_heads() const { return kv_heads == 0 ? heads : kv_heads; }
  /// The mask of one query row over the positions of its keys.
  [[nodiscard]] DropoutRow mask(std::int64_t sample, std::int64_t head, std::int64_t position) const {
    return DropoutRow::of(derive_key(key, sample, head, position), dropout);
  }
};

/// Which rows ask, and which keys each of them may see.
struct AttentionPlan {
  struct Span {                                    ///< one sequence
    std::int64_t query = 0, queries = 0;           ///< its rows of q
    std::int64_t key = 0, keys = 0;                ///< its own rows of k and v
    std::int64_t prefix_key = 0, prefix_keys = 0;  ///< the rows of its parent, seen by all of its own
    std::int64_t sample = 0;
  };
  std::vector<Span> spans;
  std::vector<std::int64_t> positions;  ///< of each query row in its sequence: it sees keys up to position
  std::int64_t key_rows = 0;
  bool shares = false;  ///< some sequence has a parent

  /// All rows of `s`, or the ascending `rows` (M) int64 if they are defined.
  /// \throws ArgumentError if the rows are not ascending row numbers.
  [[nodiscard]] static AttentionPlan of(const Sequences& s, const at::Tensor& rows = {}) {
    const auto* position = s.positions.const_data_ptr<std::int64_t>();
    AttentionPlan plan;
    plan.key_rows = s.rows();
    const auto count = rows.defined() ? rows.numel() : s.rows();
    const at::Tensor here = rows.defined() ? rows.cpu() : rows;
    const auto* chosen = rows.defined() ? here.const_data_ptr<std::int64_t>() : nullptr;
    plan.positions.reserve(static_cast<std::size_t>(count));
    std::int64_t i = 0;
    for (std::int64_t n = 0; n < s.count(); ++n) {
      Span span{.query = i, .key = s.begin(n), .keys = s.length(n), .sample = s.sample(n)};
      if (s.parent(n) >= 0) {
        span.prefix_key = s.begin(s.parent(n));
        span.prefix_keys = s.prefix(n);
        plan.shares = true;
      }
      for (; i < count && (chosen ? chosen[i] : i) < s.begin(n + 1); ++i) {
        const auto row = chosen ? chosen[i] : i;
        require(row >= (i > 0 && chosen ? chosen[i - 1] + 1 : 0) && row >= s.begin(n),
                "wanted row {} follows a later one, but wanted rows ascend", row);
        plan.positions.push_back(position[row]);
      }
      span.queries = i - span.query;
      plan.spans.push_back(span);
    }
    require(i == count, "row {} is wanted, but there are {} packed rows", i < count ? chosen[i] : 0,
            s.rows());
    return plan;
  }
  /// The last `queries` of `keys` tokens of one sequence: generation from a cache.
  [[nodiscard]] static AttentionPlan tail(std::int64_t queries, std::int64_t keys) {
    AttentionPlan plan;
    plan.key_rows = keys;
    plan.spans.push_back({.queries = queries, .keys = keys});
    for (auto p = keys - queries; p < keys; ++p) plan.positions.push_back(p);
    return plan;
  }
};

/// Causal attention, readable form: the reference for the kernels. Differentiable by autograd.
///
/// Shapes as for `attention`; computed in float32, or in float64 if q is.
[[nodiscard]] inline at::Tensor attention_reference(const at::Tensor& q, const at::Tensor& k,
                                                    const at::Tensor& v, const AttentionPlan& plan,
                                                    const AttentionOptions& options) {
  const auto type = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const auto group = options.heads / options.key_heads();
  std::vector<at::Tensor> parts;
  for (const auto& span : plan.spans) {
    const auto total = span.prefix_keys + span.keys;
    // (rows, heads * depth) -> (key heads, query heads of each or 1, rows, depth)
    auto split = [&](const at::Tensor& t, std::int64_t together) {
      const at::Tensor by_head = t.dim() == 3 ? t : t.unflatten(1, {options.key_heads() * together, -1});
      return by_head.to(type).transpose(0, 1).unflatten(0, {options.key_heads(), together});
    };
    auto visible = [&](const at::Tensor& t) {
      const at::Tensor own = t.narrow(0, span.key, span.keys);
      return split(
          span.prefix_keys == 0 ? own : at::cat({t.narrow(0, span.prefix_key, span.prefix_keys), own}), 1);
    };
    at::Tensor hidden = at::ones({span.queries, total}, at::kBool);
    at::Tensor bias = at::zeros({options.heads, span.queries, total});
    at::Tensor mask = at::ones({options.heads, span.queries, total});
    for (std::int64_t i = 0; i < span.queries; ++i) {
      const auto position = plan.positions[static_cast<std::size_t>(span.query + i)];
      const auto first = options.window > 0 ? std::max<std::int64_t>(0, position - options.window + 1) : 0;
      hidden.select(0, i).narrow(0, first, position + 1 - first).fill_(false);
      for (std::int64_t h = 0; h < options.heads; ++h) {
        const auto row = (h * span.queries + i) * total;
        if (options.dropout > 0) {
          const auto kept = options.mask(span.sample, h, position);
          auto* to = mask.mutable_data_ptr<float>() + row;
          for (std::int64_t j = 0; j < total; ++j) to[j] = kept.factor(j);
        }
        if (!options.alibi_slopes.empty()) {
          const auto slope = options.alibi_slopes[static_cast<std::size_t>(h)];
          auto* to = bias.mutable_data_ptr<float>() + row;
          for (std::int64_t j = 0; j < total; ++j) to[j] = slope * static_cast<float>(j - position);
        }
      }
    }
    const std::vector<std::int64_t> grouped{options.key_heads(), group, span.queries, total};
    const at::Tensor scores =
        at::matmul(split(q.narrow(0, span.query, span.queries), group), visible(k).transpose(2, 3));
    const at::Tensor p = at::softmax(scores.mul(options.scale)
                                         .add(bias.to(type).view(grouped))
                                         .masked_fill(hidden, -std::numeric_limits<float>::infinity()),
                                     -1);
    parts.push_back(
        at::matmul(p.mul(mask.to(type).view(grouped)), visible(v)).flatten(0, 1).transpose(0, 1).flatten(1));
  }
  return at::cat(parts).to(q.scalar_type());
}

struct AttentionResult {
  at::Tensor out;  ///< (M, heads * depth)
  at::Tensor lse;  ///< (M, heads) float32: the logarithm of each softmax's denominator
};

}  // namespace offsite::ops
