#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/take.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "offsite/blocks/run_blocks.hpp"
#include "offsite/core/error.hpp"
#include "offsite/eval/row_packer.hpp"
#include "offsite/models/causal_lm.hpp"

namespace offsite {
namespace detail {

/// Rows of the head at a time, so that (rows, V) float32 stays near 100 MB for a vocabulary of 50,000.
inline constexpr std::int64_t kHeadRows = 512;

/// Adds the log-probabilities that the logits (m, V) of rows [first, first + m) of `scored` give to their targets.
inline void take_targets(const at::Tensor& logits, const ScoredRows& scored, std::int64_t first,
                         std::vector<double>& values) {
  const auto vocabulary = logits.size(1);
  const auto end_of = [&](std::int64_t row) {
    return row == 0 ? 0 : scored.row_ends[static_cast<std::size_t>(row - 1)];
  };
  const auto begin = end_of(first), end = end_of(first + logits.size(0));
  at::Tensor places = at::empty({end - begin}, at::kLong);
  auto* place = places.mutable_data_ptr<std::int64_t>();
  for (auto i = begin, row = first; i < end; ++i) {
    while (i >= end_of(row + 1)) ++row;
    const auto token = scored.targets[static_cast<std::size_t>(i)].token;
    require(0 <= token && token < vocabulary, "token id {} is to be scored, but the vocabulary has {} tokens",
            token, vocabulary);
    *place++ = (row - first) * vocabulary + token;
  }
  const at::Tensor log_softmax = at::log_softmax(logits.to(at::kFloat), 1);
  const at::Tensor taken = at::take(log_softmax, places.to(log_softmax.device())).cpu();
  const auto* value = taken.const_data_ptr<float>();
  values.insert(values.end(), value, value + taken.numel());
}

}  // namespace detail

/// The natural logarithms of the probabilities of `scored.targets`, in their order. Only their rows go through the
/// last block and the head, and the head takes few at a time.
/// \throws ArgumentError for a token outside the vocabulary or a sequence longer than the context.
template <class Access, class Model>
[[nodiscard]] std::vector<double> log_probabilities(Model& model, const ScoredRows& scored) {
  static_assert(BlockAccessor<Access, Model>);
  static_assert(CausalLm<Model>);
  const c10::NoGradGuard no_grad;
  const at::Tensor h =
      run_blocks<Access>(model, model.embed(scored.ids, scored.sequences), scored.sequences, scored.rows);
  std::vector<double> values;
  values.reserve(scored.targets.size());
  for (std::int64_t first = 0; first < h.size(0); first += detail::kHeadRows) {
    const auto rows = std::min(detail::kHeadRows, h.size(0) - first);
    detail::take_targets(model.logits(h.narrow(0, first, rows)), scored, first, values);
  }
  return values;
}

}  // namespace offsite
