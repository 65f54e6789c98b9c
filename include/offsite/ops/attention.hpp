#pragma once
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>

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

namespace detail {

/// Elements from one head's columns to the next one's, for (N, heads * depth) and (N, heads, depth).
[[nodiscard]] inline std::int64_t head_stride(const at::Tensor& t, std::int64_t depth) {
  return t.defined() && t.dim() == 3 ? t.stride(1) : depth;
}

template <bool kBackward, class T>
void run_attention(const AttentionTensors& t, const AttentionPlan& plan, const AttentionOptions& options) {
  const auto depth = t.q.dim() == 3 ? t.q.size(2) : t.q.size(1) / options.heads;
  const auto group = options.heads / options.key_heads();
  std::vector<std::int64_t> order(plan.spans.size());  // long ones first
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) {
    return plan.spans[static_cast<std::size_t>(a)].keys > plan.spans[static_cast<std::size_t>(b)].keys;
  });
  const auto cell = [&](const at::Tensor& x, std::int64_t row, std::int64_t head) {
    return x.defined() ? static_cast<T*>(x.data_ptr()) + row * x.stride(0) + head * head_stride(x, depth)
                       : nullptr;
  };
  const auto stride = [](const at::Tensor& x) { return x.defined() ? x.stride(0) : 0; };
  // A task is all query heads of one key head, whose gradients they add up to; forward passes may split them
  // among idle threads. Workers take every n-th task of the sorted list, so each gets long and short ones
  // alike. A task writes its own rows and columns only: the result does not depend on who runs it.
  const auto spans = static_cast<std::int64_t>(plan.spans.size());
  const auto together = kBackward || spans * options.key_heads() >= at::get_num_threads() ? group : 1;
  const auto tasks_each = options.heads / together, tasks = spans * tasks_each;
  const auto workers = std::min<std::int64_t>(at::get_num_threads(), tasks);
  at::parallel_for(0, workers, 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<DropoutRow> masks;
    for (auto worker = begin; worker < end; ++worker)
      for (auto i = worker; i < tasks; i += workers) {
        const auto& span =
            plan.spans[static_cast<std::size_t>(order[static_cast<std::size_t>(i / tasks_each)])];
        const auto head = i % tasks_each * together, kv_head = head / group;
        masks.clear();
        for (auto h = head; h < head + together; ++h)
          for (std::int64_t r = 0; r < span.queries && options.dropout > 0; ++r)
            masks.push_back(
                options.mask(span.sample, h, plan.positions[static_cast<std::size_t>(span.query + r)]));
        const at::Tensor& outer = kBackward ? t.dout : t.out;
        AttentionTask<T> task{
            .q = cell(t.q, span.query, head),
            .k = cell(t.k, span.key, kv_head),
            .v = cell(t.v, span.key, kv_head),
            .prefix_k = cell(t.k, span.prefix_key, kv_head),
            .prefix_v = cell(t.v, span.prefix_key, kv_head),
            .dout = cell(t.dout, span.query, head),
            .out = cell(t.out, span.query, head),
            .dq = cell(t.dq, span.query, head),
            .dk = cell(t.dk, span.key, kv_head),
            .dv = cell(t.dv, span.key, kv_head),
            .ldq = stride(t.q),
            .ldk = stride(t.k),
            .ldv = stride(t.v),
            .ldo = stride(outer),
            .lddq = stride(t.dq),
            .lddk = stride(t.dk),
            .lddv = stride(t.dv),
            .ldl = options.heads,
            .q_head = head_stride(t.q, depth),
            .o_head = head_stride(outer, depth),
            .dq_head = head_stride(t.dq, depth),
            .heads = together,
            .queries = span.queries,
            .keys = span.keys,
            .prefix_keys = span.prefix_keys,
            .depth = depth,
            .window = options.window,
            .position = plan.positions.data() + span.query,
            .masks = options.dropout > 0 ? masks.data() : nullptr,
            .slopes = options.alibi_slopes.empty() ? nullptr : options.alibi_slopes.data() + head,
            .lse = t.lse.data_ptr<float>() + span.query * options.heads + head,
            .scale = static_cast<float>(options.scale),
            .scratch = nullptr,
        };
        task.scratch = simd::Scratch::floats(task.scratch_size(kBackward));
        simd::run<AttentionKernel<kBackward, T>>(task);
      }
  });
}

inline void check_attention(const AttentionTensors& t, const AttentionPlan& plan, const AttentionOptions& o) {
  require(o.heads > 0 && o.key_heads() > 0 && o.heads % o.key_heads() == 0,
          "{} query heads do not divide among {} key heads", o.heads, o.key_heads());
  const auto width = [](const at::Tensor& x) { return x.dim() == 3 ? x.size(1) * x.size(2) : x.size(1); };
  const auto depth = width(t.q) / o.heads, keys = o.key_heads() * depth;
  require(width(t.q) == o.heads * depth && (t.q.dim() < 3 || t.q.size(1) == o.heads),
          "a width of {} does not divide into {} heads", width(t.q), o.heads);
  require(width(t.k) == keys && width(t.v) == keys,
          "keys are {} wide and values {}, but {} heads as wide as a query's, {}, need {}", width(t.k),
          width(t.v), o.key_heads(), depth, keys);
  require(t.q.size(0) == static_cast<std::int64_t>(plan.positions.size()) && t.k.size(0) >= plan.key_rows,
          "the plan has {} queries and {} keys, but q has {} rows and k {}", plan.positions.size(),
          plan.key_rows, t.q.size(0), t.k.size(0));
  require(
      is_fast(t.q) && t.k.scalar_type() == t.q.scalar_type() && t.v.scalar_type() == t.q.scalar_type(),
      "attention wants q, k and v of one type, float32 or bfloat16, on the CPU, but they are {}, {} and {}",
      t.q.dtype().name(), t.k.dtype().name(), t.v.dtype().name());
  require(0 <= o.dropout && o.dropout < 1, "the attention dropout rate is {}, but rates lie in [0, 1)",
          o.dropout);
  require(o.window >= 0, "the attention window is {}, but it is 0 for none, or positive", o.window);
  require(
      o.alibi_slopes.empty() || (o.scale > 0 && static_cast<std::int64_t>(o.alibi_slopes.size()) == o.heads),
      "{} slopes of biases were given for {} heads and a scale of {}", o.alibi_slopes.size(), o.heads,
      o.scale);
}

}  // namespace detail

/// q (M, heads * depth), k and v (N, key heads * depth), of any depth, where rows may be strided; or
/// (M, heads, depth) and so on, where heads may be strided too. O(sum of length^2): nothing is spent on other
/// sequences, later keys, or keys before all windows. Works in float32 inside.
[[nodiscard]] inline AttentionResult attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                               const AttentionPlan& plan, const AttentionOptions& options) {
  AttentionResult result{
      at::empty({q.size(0), q.dim() == 3 ? q.size(1) * q.size(2) : q.size(1)}, q.options()),
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
