// An accessor that does not say how a block runs.
// expect: RunsBlocks
// expect: static at::Tensor forward\(Block&, const at::Tensor&, const Sequences&\)
#include "offsite/blocks/block_access.hpp"

#include <vector>

struct Model {
  std::vector<at::Tensor> blocks;
};

struct Access : offsite::VectorBlocks<Model, &Model::blocks> {
#ifndef MISTAKE
  static at::Tensor forward(Block& block, const at::Tensor& h, const offsite::Sequences&) { return h.mul(block); }
#endif
  template <class F>
  static void visit(Block& block, F&& f) {
    f("weight", block);
  }
};

static_assert(offsite::BlockAccessor<Access, Model>);
