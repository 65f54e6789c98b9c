#pragma once
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/core/sequences.hpp"
#include "offsite/ops/attention_kernel.hpp"
#include "offsite/ops/attention_plan.hpp"
#include "offsite/ops/padded_attention.hpp"

namespace offsite::ops {

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
  const at::Tensor& outer = kBackward ? t.dout : t.out;
  const auto task_of = [&](std::int64_t i) {
    if (i >= tasks) return AttentionTask<T>{};
    const auto& span = plan.spans[static_cast<std::size_t>(order[static_cast<std::size_t>(i / tasks_each)])];
    const auto head = i % tasks_each * together, kv_head = head / group;
    return AttentionTask<T>{
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
        .masks = nullptr,
        .slopes = options.alibi_slopes.empty() ? nullptr : options.alibi_slopes.data() + head,
        .lse = t.lse.data_ptr<float>() + span.query * options.heads + head,
        .scale = static_cast<float>(options.scale),
        .first_head = head,
        .sample = span.sample,
    };
  };
  at::parallel_for(0, workers, 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<DropoutRow> masks;
    for (auto worker = begin; worker < end; ++worker)
      for (auto i = worker; i < tasks; i += workers) {
        AttentionTask<T> task = task_of(i);
        masks.clear();
        for (std::int64_t h = 0; h < task.heads && options.dropout > 0; ++h)
          for (std::int64_t r = 0; r < task.queries; ++r)
            masks.push_back(options.mask(task.sample, task.first_head + h, task.position[r]));
        if (!masks.empty()) task.masks = masks.data();
        task.scratch = simd::Scratch::floats(task.scratch_size(kBackward));
        simd::run<AttentionKernel<kBackward, T>>(task, task_of(i + workers));
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
  if (!q.is_cpu()) return {padded_attention(q, k, v, plan, options), {}};
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
  if (!q.is_cpu()) return padded_attention_backward(dout, q, k, v, dq, dk, dv, plan, options);
  detail::AttentionTensors tensors{
      .q = q, .k = k, .v = v, .dout = dout, .out = {}, .dq = dq, .dk = dk, .dv = dv, .lse = lse};
  detail::check_attention(tensors, plan, options);
  with_type(q, [&]<class T>(T*) { detail::run_attention<true, T>(tensors, plan, options); });
}

}  // namespace offsite::ops
