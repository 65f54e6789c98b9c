#pragma once
#include <string_view>

#include "offsite/blocks/block_access.hpp"
#include "offsite/blocks/visit_linears.hpp"

#include "support/test.hpp"

namespace support {

/// A block's linear layer by its name within the block, as the checkpoint has it.
template <class Model>
offsite::Linear& layer(Model& model, std::int64_t place, std::string_view name) {
  using Access = offsite::BlockAccess<Model>;
  offsite::Linear* found = nullptr;
  offsite::visit_linears<Access>(Access::block(model, place),
                                 [&](std::string_view called, offsite::Linear& layer) {
                                   if (called == name) found = &layer;
                                 });
  REQUIRE(found != nullptr);
  return *found;
}

}  // namespace support
