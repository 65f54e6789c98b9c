#pragma once
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/softmax.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/core/sequences.hpp"
#include "offsite/ops/attention_kernel.hpp"
#include "offsite/ops/dropout.hpp"

namespace offsite::ops {

/// How attention is computed, and how its probabilities are dropped while training.
struct AttentionOptions {
  std::int64_t heads = 1;  ///< divides the width
  double scale = 1;        ///< of the products of queries and keys
  double dropout = 0;      ///< rate, in [0, 1)
  std::uint64_t key = 0;   ///< of the masks, with the block's number in it

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
  std::vector<std::int64_t> positions;  ///< of each query row in its sequence: it sees keys 0 .. position
  std::int64_t key_rows = 0;
  bool shares = false;  ///< some sequence has a parent

  /// All rows of `s`, or the ascending `rows` (M) int64 if they are defined.
  /// \throws ArgumentError if the rows are not ascending row numbers.
  [[nodiscard]] static AttentionPlan of(const Sequences& s, const at::Tensor& rows = {}) {
    const auto* position = s.positions.const_data_ptr<std::int64_t>();
    AttentionPlan plan;
    plan.key_rows = s.rows();
    const auto count = rows.defined() ? rows.numel() : s.rows();
    const auto* chosen = rows.defined() ? rows.const_data_ptr<std::int64_t>() : nullptr;
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
/// q (M, C), k and v (N, C) with C = heads * depth; returns (M, C). Computed in float32.
[[nodiscard]] inline at::Tensor attention_reference(const at::Tensor& q, const at::Tensor& k,
                                                    const at::Tensor& v, const AttentionPlan& plan,
                                                    const AttentionOptions& options) {
  std::vector<at::Tensor> parts;
  for (const auto& span : plan.spans) {
    const auto total = span.prefix_keys + span.keys;
    auto split = [&](const at::Tensor& t) {  // (rows, C) -> (heads, rows, depth)
      return t.to(at::kFloat).unflatten(1, {options.heads, t.size(1) / options.heads}).transpose(0, 1);
    };
    auto visible = [&](const at::Tensor& t) {
      const at::Tensor own = t.narrow(0, span.key, span.keys);
      return split(span.prefix_keys == 0 ? own
                                         : at::cat({t.narrow(0, span.prefix_key, span.prefix_keys), own}));
    };
    at::Tensor hidden = at::ones({span.queries, total}, at::kBool);
    at::Tensor mask = at::ones({options.heads, span.queries, total});
    for (std::int64_t i = 0; i < span.queries; ++i) {
      const auto position = plan.positions[static_cast<std::size_t>(span.query + i)];
      hidden.select(0, i).narrow(0, 0, position + 1).fill_(false);
      for (std::int64_t h = 0; h < options.heads && options.dropout > 0; ++h)
        for (std::int64_t j = 0; j < total; ++j)
          mask.mutable_data_ptr<float>()[(h * span.queries + i) * total + j] =
              options.mask(span.sample, h, position).factor(j);
    }
    const at::Tensor scores =
        at::matmul(split(q.narrow(0, span.query, span.queries)), visible(k).transpose(1, 2));
    const at::Tensor p = at::softmax(
        scores.mul(options.scale).masked_fill(hidden, -std::numeric_limits<float>::infinity()), -1);
    parts.push_back(at::matmul(p.mul(mask), visible(v)).transpose(0, 1).flatten(1));
  }
  return at::cat(parts).to(q.scalar_type());
}

struct AttentionResult {
  at::Tensor out;  ///< (M, C)
  at::Tensor lse;  ///< (M, heads) float32: the logarithm of each softmax's denominator
};

namespace detail {

template <bool kBackward, class T>
void run_attention(const AttentionTensors& t, const AttentionPlan& plan, const AttentionOptions& options) {
  const auto heads = options.heads, depth = t.q.size(1) / heads;
  std::vector<std::int64_t> order(plan.spans.size());  // long ones first
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) {
    return plan.spans[static_cast<std::size_t>(a)].keys > plan.spans[static_cast<std::size_t>(b)].keys;
  });
  const auto cell = [](const at::Tensor& x, std::int64_t row, std::int64_t column) {
    return x.defined() ? static_cast<T*>(x.data_ptr()) + row * x.stride(0) + column : nullptr;
  };
  const auto stride = [](const at::Tensor& x) { return x.defined() ? x.stride(0) : 0; };
  // Workers take every n-th task of the sorted list, so each gets long and short ones alike. A task writes
  // its own rows and columns only: the result does not depend on who runs it.
  const auto tasks = static_cast<std::int64_t>(plan.spans.size()) * heads;
  const auto workers = std::min<std::int64_t>(at::get_num_threads(), tasks);
  at::parallel_for(0, workers, 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<DropoutRow> masks;
    for (auto worker = begin; worker < end; ++worker)
      for (auto i = worker; i < tasks; i += workers) {
        const auto& span = plan.spans[static_cast<std::size_t>(order[static_cast<std::size_t>(i / heads)])];
        const auto head = i % heads, column = head * depth;
        masks.clear();
        for (std::int64_t r = 0; r < span.queries && options.dropout > 0; ++r)
          masks.push_back(
              options.mask(span.sample, head, plan.positions[static_cast<std::size_t>(span.query + r)]));
        AttentionTask<T> task{
            .q = cell(t.q, span.query, column),
            .k = cell(t.k, span.key, column),
            .v = cell(t.v, span.key, column),
            .prefix_k = cell(t.k, span.prefix_key, column),
            .prefix_v = cell(t.v, span.prefix_key, column),
            .dout = cell(t.dout, span.query, column),
            .out = cell(t.out, span.query, column),
            .dq = cell(t.dq, span.query, column),
            .dk = cell(t.dk, span.key, column),
            .dv = cell(t.dv, span.key, column),
            .ldq = stride(t.q),
            .ldk = stride(t.k),
            .ldv = stride(t.v),
            .ldo = kBackward ? stride(t.dout) : stride(t.out),
            .lddq = stride(t.dq),
            .lddk = stride(t.dk),
            .lddv = stride(t.dv),
            .ldl = heads,
            .queries = span.queries,
            .keys = span.keys,
            .prefix_keys = span.prefix_keys,
            .depth = depth,
            .position = plan.positions.data() + span.query,
            .masks = options.dropout > 0 ? masks.data() : nullptr,
            .lse = t.lse.data_ptr<float>() + span.query * heads + head,
            .scale = static_cast<float>(options.scale),
            .scratch = nullptr,
        };
        task.scratch = simd::Scratch::floats(task.scratch_size(kBackward));
        simd::run<AttentionKernel<kBackward>>(task);
      }
  });
}

inline void check_attention(const AttentionTensors& t, const AttentionPlan& plan, const AttentionOptions& o) {
  require(o.heads > 0 && t.q.size(1) % o.heads == 0, "a width of {} does not divide into {} heads",
          t.q.size(1), o.heads);
  require(t.q.size(0) == static_cast<std::int64_t>(plan.positions.size()) && t.k.size(0) >= plan.key_rows,
          "the plan has {} queries and {} keys, but q has {} rows and k {}", plan.positions.size(),
          plan.key_rows, t.q.size(0), t.k.size(0));
  require(
      is_fast(t.q) && t.k.scalar_type() == t.q.scalar_type() && t.v.scalar_type() == t.q.scalar_type(),
      "attention wants q, k and v of one type, float32 or bfloat16, on the CPU, but they are {}, {} and {}",
      t.q.dtype().name(), t.k.dtype().name(), t.v.dtype().name());
  require(0 <= o.dropout && o.dropout < 1, "the attention dropout rate is {}, but rates lie in [0, 1)",
          o.dropout);
}

}  // namespace detail

/// q (M, C), k and v (N, C), rows of any stride. O(sum of length^2): nothing is spent on other sequences or
/// later keys. Works in float32 inside.
[[nodiscard]] inline AttentionResult attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                               const AttentionPlan& plan, const AttentionOptions& options) {
  AttentionResult result{at::empty({q.size(0), q.size(1)}, q.options()),
                         at::empty({q.size(0), options.heads}, q.options().dtype(at::kFloat))};
  detail::AttentionTensors tensors{.q = q, .k = k, .v = v, .out = result.out, .lse = result.lse};
  detail::check_attention(tensors, plan, options);
  with_type(q, [&]<class T>(T*) { detail::run_attention<false, T>(tensors, plan, options); });
  return result;
}

/// Writes the gradients of q, k and v, which may be columns of one tensor; the probabilities are computed
/// again. \throws ArgumentError if sequences share prefixes: their gradients would overlap.
inline void attention_backward(const at::Tensor& dout, const at::Tensor& q, const at::Tensor& k,
                               const at::Tensor& v, const at::Tensor& lse, const at::Tensor& dq,
                               const at::Tensor& dk, const at::Tensor& dv, const AttentionPlan& plan,
                               const AttentionOptions& options) {
  require(!plan.shares,
          "a backward pass was asked for sequences with parents, but shared prefixes are for evaluation");
  detail::AttentionTensors tensors{
      .q = q, .k = k, .v = v, .dout = dout, .out = {}, .dq = dq, .dk = dk, .dv = dv, .lse = lse};
  detail::check_attention(tensors, plan, options);
  with_type(q, [&]<class T>(T*) { detail::run_attention<true, T>(tensors, plan, options); });
}

}  // namespace offsite::ops
