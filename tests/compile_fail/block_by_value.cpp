// An accessor that hands out copies of blocks: training would assign to the copies.
// expect: ReturnsBlocks
// expect: static Block& block\(M&, std::int64_t\): never a copy
#include "offsite/blocks/block_access.hpp"

#include <vector>

struct Model {
  std::vector<at::Tensor> blocks;
};

struct Access : offsite::VectorBlocks<Model, &Model::blocks> {
#ifdef MISTAKE
  static Block block(Model& model, std::int64_t i) { return model.blocks[static_cast<std::size_t>(i)]; }
#endif
  static at::Tensor forward(Block& block, const at::Tensor& h, const offsite::Sequences&) { return h.mul(block); }
  template <class F>
  static void visit(Block& block, F&& f) {
    f("weight", block);
  }
};

static_assert(offsite::BlockAccessor<Access, Model>);
