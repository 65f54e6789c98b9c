// A drop rule of one's own: keep the blocks that change the hidden state most. It is compared with UniformDrop by how
// far each emulator's answers are from the whole model's.
#include <offsite/models/gpt2.hpp>
#include <offsite/offsite.hpp>

#include <ATen/TensorOperators.h>

#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>
#include <span>
#include <vector>

/// Keeps the blocks of the middle with the largest scores.
struct KeepLargest {
  std::vector<double> scores;  ///< one a block of the middle

  [[nodiscard]] offsite::LayerSelection select(std::int64_t num_blocks, std::int64_t keep) const {
    const auto given = static_cast<std::int64_t>(scores.size());
    offsite::require(given == num_blocks, "{} scores were given for {} blocks", given, num_blocks);
    offsite::LayerSelection order(scores.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
      return scores[static_cast<std::size_t>(a)] > scores[static_cast<std::size_t>(b)];
    });
    order.resize(static_cast<std::size_t>(keep));
    std::sort(order.begin(), order.end());
    return order;
  }
};
static_assert(offsite::LayerDrop<KeepLargest>);

namespace {

using Access = offsite::BlockAccess<offsite::Gpt2>;

/// How much each block changes what goes into it: |block(h) - h| / |h|.
std::vector<double> changes(offsite::Gpt2& model, const offsite::PackedBatch& batch) {
  std::vector<double> result;
  at::Tensor h = model.embed(batch.ids, batch.sequences);
  for (std::int64_t i = 0; i < Access::num_blocks(model); ++i) {
    const at::Tensor next = Access::forward(Access::block(model, i), h, batch.sequences);
    result.push_back(((next - h).norm() / h.norm()).item<double>());
    h = next;
  }
  return result;
}

at::Tensor logits(offsite::Gpt2& model, const offsite::PackedBatch& batch) {
  return model.logits(
      offsite::run_blocks<Access>(model, model.embed(batch.ids, batch.sequences), batch.sequences));
}

}  // namespace

int main() {
  using namespace offsite;
  const c10::NoGradGuard no_grad;
  Gpt2 model = Gpt2::random({.n_layer = 10, .n_head = 2, .n_embd = 32, .vocab_size = 40}, 1);
  for (const std::size_t strong : {2, 3, 6})  // in a trained model blocks differ; here three are made to
    Access::visit(model.blocks[strong], [](std::string_view, at::Tensor& tensor) { tensor = tensor * 4; });
  std::vector<Sample> samples(8);
  for (std::int32_t k = 0; k < 8; ++k)
    samples[static_cast<std::size_t>(k)].tokens = {7 * k % 40, 1, 2, 3 * k, 5, 8};
  const auto batch = pack(samples);
  const auto all = changes(model, batch);
  const KeepLargest rule{{all.begin() + 1, all.end() - 1}};  // the middle, between one block at each end
  const SplitOptions cut{.bottom_blocks = 1, .top_blocks = 1, .emulator_blocks = 3};
  Owner by_change{model, cut, rule};
  Owner uniform{model, cut};
  std::vector<double> distance;
  for (const auto& offer : {by_change.offer(), uniform.offer()}) {
    Gpt2 emulator = offer.model;
    distance.push_back((logits(emulator, batch) - logits(model, batch)).norm().item<double>());
  }
  fmt::print("Kept by change: {}; uniformly: {}.\n", by_change.plan().emulator, uniform.plan().emulator);
  fmt::print("Distance from the model's logits: {:.3f} and {:.3f}.\n", distance[0], distance[1]);
  return distance[0] < distance[1] ? 0 : 1;
}
