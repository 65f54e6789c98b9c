#pragma once
#include <ATen/core/Tensor.h>

#include <string_view>

#include "offsite/ops/linear.hpp"

namespace offsite {

namespace detail {

/// Visits parameters as any other visitor, but is given a layer whole where a block's `visit` hands it to
/// `Linear::visit`.
template <class F>
struct LinearVisitor {
  using VisitsLinears = void;
  F& f;

  void operator()(std::string_view, at::Tensor&) const {}
  void operator()(std::string_view name, Linear& layer) const { f(name, layer); }
};

}  // namespace detail

/// Calls `f(name within the block, Linear&)` for every linear layer that a block visits by `Linear::visit`: none of a
/// block that names its tensors itself.
template <class Access, class Block, class F>
void visit_linears(Block& block, F&& f) {
  Access::visit(block, detail::LinearVisitor<std::remove_reference_t<F>>{f});
}

}  // namespace offsite
