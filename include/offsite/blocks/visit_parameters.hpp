#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "offsite/blocks/block_access.hpp"
#include "offsite/core/error.hpp"

namespace offsite {

/// Calls `f(full_name, tensor&)` for every parameter: the shared ones, then block by block.
/// \param numbers  the full model's number of each of the model's blocks
/// \throws ArgumentError unless there are as many numbers as blocks.
template <class Access, class Model, class F>
void visit_parameters(Model& model, std::span<const std::int64_t> numbers, F&& f) {
  const auto count = static_cast<std::int64_t>(numbers.size());
  require(count == Access::num_blocks(model), "{} block numbers were given for a model of {} blocks", count,
          Access::num_blocks(model));
  model.visit_shared([&](std::string_view name, at::Tensor& tensor) { f(std::string(name), tensor); });
  for (std::int64_t place = 0; place < count; ++place) {
    const auto prefix = block_prefix<Access>(numbers[static_cast<std::size_t>(place)]);
    Access::visit(Access::block(model, place), [&](std::string_view name, at::Tensor& tensor) {
      f(prefix + std::string(name), tensor);
    });
  }
}

}  // namespace offsite
