// A model without access to its blocks.
// expect: missing\? specialise offsite::BlockAccess<YourModel>
#include "offsite/blocks/block_access.hpp"

#include <vector>

struct Model {
  std::vector<at::Tensor> blocks;
};

#ifndef MISTAKE
template <>
struct offsite::BlockAccess<Model> : offsite::VectorBlocks<Model, &Model::blocks> {
  static at::Tensor forward(Block& block, const at::Tensor& h, const Sequences&) { return h.mul(block); }
  template <class F>
  static void visit(Block& block, F&& f) {
    f("weight", block);
  }
};
#endif

static_assert(offsite::BlockAccessor<offsite::BlockAccess<Model>, Model>);
