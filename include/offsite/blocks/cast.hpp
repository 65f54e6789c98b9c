#pragma once
#include <ATen/core/Tensor.h>
#include <c10/core/GradMode.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <string_view>

#include "offsite/blocks/block_access.hpp"
#include "offsite/core/error.hpp"

namespace offsite {

/// A copy of `model` whose floating parameters are of `type`; those that are already are shared, and the
/// original keeps its own. \throws ArgumentError unless `type` is a floating one.
template <class Access, class Model>
[[nodiscard]] Model cast_model(Model model, at::ScalarType type) {
  require(at::isFloatingType(type), "a model cannot be computed in {}, which is not a floating type",
          c10::toString(type));
  const c10::NoGradGuard no_grad;
  const auto cast = [type](std::string_view, at::Tensor& tensor) {
    if (tensor.is_floating_point()) tensor = tensor.to(type);
  };
  model.visit_shared(cast);
  for (std::int64_t i = 0; i < Access::num_blocks(model); ++i) Access::visit(Access::block(model, i), cast);
  return model;
}

}  // namespace offsite
