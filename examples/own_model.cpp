// A model of one's own: plain structs, no base class and no registration. Its blocks are gated linear
// recurrences, without attention. It learns to count by ones and twos, then offsite to count by threes.
#include <offsite/eval.hpp>
#include <offsite/offsite.hpp>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/silu.h>

#include <cstdio>
#include <vector>

namespace mine {
struct Block {
  offsite::Linear keep, value, gate, out;  // C -> D three times, and back: LoRA can be put on them
};
struct Model {
  at::Tensor table;      // (V, C)
  offsite::Linear head;  // C -> V
  std::vector<Block> blocks;
  at::Tensor embed(const at::Tensor& ids, const offsite::Sequences&) const {
    return table.index_select(0, ids);
  }
  at::Tensor logits(const at::Tensor& h) const { return head.forward(at::layer_norm(h, h.size(1))); }
  template <class F>
  void visit_shared(F&& f) {
    f("table", table), head.visit("head", f);
  }
};
}  // namespace mine

template <>
struct offsite::BlockAccess<mine::Model> : offsite::VectorBlocks<mine::Model, &mine::Model::blocks> {
  /// (N, C) -> (N, C) by state(t) = a(t) state(t-1) + (1 - a(t)) value(t) (Feng et al., arXiv:2410.01201), all
  /// rows at once in log2 N steps. a is 0 where a sequence begins, so that it sees no other.
  static at::Tensor forward(mine::Block& b, const at::Tensor& h, const Sequences& s) {
    const at::Tensor x = at::layer_norm(h, h.size(1)), first = s.positions.eq(0).unsqueeze(1);
    at::Tensor a = b.keep.forward(x).sigmoid().masked_fill(first, 0), state = (1 - a) * b.value.forward(x);
    for (std::int64_t step = 1; step < s.rows(); step *= 2) {
      state = state + a * state.roll(step, 0);
      a = a * a.roll(step, 0);
    }
    return h + b.out.forward(state * at::silu(b.gate.forward(x)));
  }
  template <class F>
  static void visit(mine::Block& b, F&& f) {
    b.keep.visit("keep", f), b.value.visit("value", f), b.gate.visit("gate", f), b.out.visit("out", f);
  }
};

static std::vector<offsite::Sample> counting(int least, int most) {  // what to add, then 8 numbers modulo 40
  std::vector<offsite::Sample> samples;
  for (int i = 0; i < 40 * (1 + most - least); ++i) {
    samples.push_back({{least + i / 40}, 2, i});
    for (int n = 0; n < 8; ++n) samples.back().tokens.push_back((i + n * samples.back().tokens[0]) % 40);
  }
  return samples;
}

int main() {
  using namespace offsite;
  auto seeded = at::make_generator<at::CPUGeneratorImpl>(1);
  const auto draw = [&](int rows, int columns) { return at::randn({rows, columns}, seeded) * 0.2; };
  mine::Model model{draw(40, 32) * 5, {draw(40, 32)}, {}};
  for (int i = 0; i < 6; ++i)
    model.blocks.push_back({{draw(64, 32)}, {draw(64, 32)}, {draw(64, 32)}, {draw(32, 64)}});
  const auto ones_and_twos = counting(1, 2), threes = counting(3, 3);
  FullFineTuning<mine::Model> pretraining(model);
  pretraining.train(ones_and_twos, {.learning_rate = 3e-3, .num_epochs = 30});
  OffsiteTuning tuner{pretraining.model(), {.bottom_blocks = 1, .top_blocks = 1, .emulator_blocks = 3}};
  tuner.train(threes, {.learning_rate = 3e-3, .num_epochs = 30});
  mine::Model tuned = tuner.plug_in().model;
  const double before = score_samples(pretraining.model(), threes).scores.loss;
  const double after = score_samples(tuned, threes).scores.loss;
  std::printf("Counting by threes: loss %.3f before offsite tuning, %.3f after it.\n", before, after);
  return after < 0.5 * before ? 0 : 1;
}
