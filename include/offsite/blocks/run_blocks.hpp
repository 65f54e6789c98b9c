#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/index_select.h>
#include <c10/core/GradMode.h>

#include <cstdint>

#include "offsite/blocks/block_access.hpp"

namespace offsite {

/// All blocks of `model` without gradients: (N, C) -> the wanted `rows` (M, C), or all if undefined. The same
/// arithmetic as in training. \throws ArgumentError if sequences have parents and the blocks cannot follow
/// them.
template <class Access, class Model>
[[nodiscard]] at::Tensor run_blocks(Model& model, at::Tensor h, const Sequences& s,
                                    const at::Tensor& rows = {}) {
  c10::NoGradGuard no_grad;
  const auto depth = Access::num_blocks(model);
  if constexpr (!SharesPrefixes<Access>)
    require(s.parents.empty(),
            "sequences with parents were given, but this model's blocks do not share prefixes");
  for (std::int64_t i = 0; i < depth; ++i) {
    if constexpr (HandWrittenBackward<Access>) {
      typename Access::Saved unused;
      const BlockPass pass{i + 1 == depth ? rows : at::Tensor{}, {}, false};
      h = Access::forward(Access::block(model, i), h, s, pass, unused);
    } else {
      h = Access::forward(Access::block(model, i), h, s);
    }
  }
  if constexpr (!HandWrittenBackward<Access>)
    if (rows.defined()) return h.index_select(0, rows);
  return h;
}

}  // namespace offsite
