#pragma once
#include <ATen/core/Tensor.h>

#include "offsite/ops/linear.hpp"

namespace offsite::ops {

/// Lets go of the input `x` of a linear layer that a forward pass keeps for the backward one. For inputs that are cheap to
/// make again, such as an activation's result, which is four times as wide as the hidden rows.
inline void forget_input(Linear::Saved& saved, const at::Tensor& x) {
  for (auto* kept : {&saved.x, &saved.low_rank.x})
    if (kept->is_same(x)) kept->reset();
}

/// Whether the backward pass of `layer` wants more of the forward one than an input that `remake_input` puts back.
[[nodiscard]] inline bool keeps_more_than_input(const Linear& layer) {
  return layer.low_rank.defined() || layer.bottleneck.defined();
}

/// Puts the input back where the backward pass of `layer` needs it and it was forgotten. \param make  () -> (N, in)
template <class Make>
void remake_input(const Linear& layer, Linear::Saved& saved, Make&& make) {
  const bool of_weight = layer.weight.grad().defined() && !saved.x.defined();
  const bool of_factors = layer.low_rank.defined() && layer.low_rank.trains() && !saved.low_rank.x.defined();
  if (!of_weight && !of_factors) return;
  const at::Tensor x = make();
  if (of_weight) saved.x = x;
  if (of_factors) saved.low_rank.x = x;
}

}  // namespace offsite::ops
