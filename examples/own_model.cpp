// A model of one's own: plain structs of tensors, no base class and no registration. It learns to count by
// ones, then is tuned offsite to count by threes.
#include <offsite/eval.hpp>
#include <offsite/offsite.hpp>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/roll.h>

#include <cstdio>
#include <vector>

namespace mine {
struct Block {
  at::Tensor here, before, out;  // (H, C), (H, C), (C, H)
};

struct Model {
  at::Tensor table, head;  // (V, C) both
  std::vector<Block> blocks;
  at::Tensor embed(const at::Tensor& ids, const offsite::Sequences&) const {
    return at::embedding(table, ids);
  }
  at::Tensor logits(const at::Tensor& h) const { return at::linear(h, head); }
  template <class F>
  void visit_shared(F&& f) {
    f("table", table);
    f("head", head);
  }
};
}  // namespace mine

template <>
struct offsite::BlockAccess<mine::Model> : offsite::VectorBlocks<mine::Model, &mine::Model::blocks> {
  /// (N, C) -> (N, C): each row also sees the row before it, if that belongs to the same sequence.
  static at::Tensor forward(mine::Block& b, const at::Tensor& h, const Sequences& s) {
    const at::Tensor before = at::roll(h, 1, 0) * s.positions.gt(0).unsqueeze(1).to(h.scalar_type());
    return h + at::linear(at::relu(at::linear(h, b.here) + at::linear(before, b.before)), b.out);
  }
  template <class F>
  static void visit(mine::Block& b, F&& f) {
    f("here", b.here);
    f("before", b.before);
    f("out", b.out);
  }
};

static std::vector<offsite::Sample> counting(std::int32_t step) {  // modulo 40, from each number
  std::vector<offsite::Sample> samples(40);
  for (std::int32_t start = 0; start < 40; ++start)
    for (std::int32_t i = 0; i < 8; ++i)
      samples[static_cast<std::size_t>(start)].tokens.push_back((start + i * step) % 40);
  return samples;
}

int main() {
  using namespace offsite;
  auto generator = at::make_generator<at::CPUGeneratorImpl>(1);
  const auto draw = [&](std::int64_t rows, std::int64_t columns) {
    return at::randn({rows, columns}, generator);
  };
  mine::Model model{draw(40, 32), draw(40, 32) * 0.2, {}};
  for (int i = 0; i < 6; ++i)
    model.blocks.push_back({draw(64, 32) * 0.2, draw(64, 32) * 0.2, draw(32, 64) * 0.05});

  FullFineTuning<mine::Model> pretraining(model);
  pretraining.train(counting(1), {.learning_rate = 3e-3, .num_epochs = 30});
  mine::Model counts = pretraining.model();
  OffsiteTuning tuner{counts, {.bottom_blocks = 1, .top_blocks = 1, .emulator_blocks = 2}};
  tuner.train(counting(3), {.learning_rate = 3e-3, .num_epochs = 30});
  auto tuned = tuner.plug_in().model;
  const double before = score_samples(counts, counting(3)).scores.loss,
               after = score_samples(tuned, counting(3)).scores.loss;
  std::printf("Counting by threes: loss %.3f before offsite tuning, %.3f after it.\n", before, after);
  return after < 0.5 * before ? 0 : 1;
}
