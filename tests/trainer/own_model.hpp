#pragma once
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/relu.h>

#include <cstdint>
#include <vector>

#include "offsite/blocks/block_access.hpp"
#include "offsite/models/causal_lm.hpp"

namespace own {

/// The archetype of a user's model: plain structs, autograd, and nothing that the concepts do not ask for.
struct Block {
  at::Tensor w1, w2, bias;
};
struct Model {
  at::Tensor table, head;
  std::vector<Block> blocks;
  at::Tensor embed(const at::Tensor& ids, const offsite::Sequences&) const {
    return table.index_select(0, ids);
  }
  at::Tensor logits(const at::Tensor& h) const { return at::linear(h, head); }
  template <class F>
  void visit_shared(F&& f) {
    f("table", table);
    f("head", head);
  }
};

inline Model random_model(int depth, std::uint64_t seed) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  const auto draw = [&](std::int64_t rows, std::int64_t columns) {
    return at::randn({rows, columns}, generator).mul_(0.2);
  };
  Model model{draw(50, 32).mul_(5), draw(50, 32), {}};
  for (int i = 0; i < depth; ++i)
    model.blocks.push_back({draw(64, 32), draw(32, 64), draw(1, 64).squeeze(0)});
  return model;
}

}  // namespace own

template <>
struct offsite::BlockAccess<own::Model> : offsite::VectorBlocks<own::Model, &own::Model::blocks> {
  static at::Tensor forward(own::Block& b, const at::Tensor& h, const Sequences&) {
    return h + at::linear(at::relu(at::linear(h, b.w1, b.bias)), b.w2);
  }
  template <class F>
  static void visit(own::Block& b, F&& f) {
    f("w1", b.w1);
    f("w2", b.w2);
    f("bias", b.bias);
  }
};
