// An aggregation policy of one's own: the mean of updates, each clipped to the median length, so that no client
// outweighs the others. Three clients train in one process; one of them has forty times the data, and wrong answers.
#include <offsite/eval.hpp>
#include <offsite/models/gpt2.hpp>
#include <offsite/offsite.hpp>

#include <algorithm>
#include <array>
#include <cstdio>
#include <span>
#include <vector>

/// global + mean of the updates, none of them longer than the median one; weights do not count.
struct ClippedMean {
  struct State {
    std::vector<float> lengths;  ///< of the last round's updates
  };

  [[nodiscard]] Eigen::VectorXf aggregate(const Eigen::VectorXf& global,
                                          std::span<const offsite::ClientUpdate> updates,
                                          State& state) const {
    offsite::check_updates(global.size(), updates);
    state.lengths.clear();
    for (const auto& update : updates) state.lengths.push_back(update.delta.norm());
    auto sorted = state.lengths;
    std::sort(sorted.begin(), sorted.end());
    const float bound = sorted[sorted.size() / 2];

    Eigen::VectorXf next = global;
    for (std::size_t i = 0; i < updates.size(); ++i)
      if (state.lengths[i] > 0)
        next += updates[i].delta *
                (std::min(1.0f, bound / state.lengths[i]) / static_cast<float>(updates.size()));
    return next;
  }
};
static_assert(offsite::AggregationPolicy<ClippedMean>);

namespace {

/// Sequences over 0..39 that count on by `step`.
std::vector<offsite::Sample> counting(std::int32_t step, std::int32_t first, std::int32_t count) {
  std::vector<offsite::Sample> samples(static_cast<std::size_t>(count));
  for (std::int32_t k = 0; k < count; ++k)
    for (std::int32_t i = 0; i < 8; ++i) {
      samples[static_cast<std::size_t>(k)].tokens.push_back((first + k + i * step) % 40);
      samples[static_cast<std::size_t>(k)].number = k;
    }
  return samples;
}

template <class Aggregation>
double loss_after_rounds(const offsite::Gpt2& model, const Aggregation& aggregation) {
  using namespace offsite;
  const auto a = counting(3, 0, 20), b = counting(3, 20, 20), wrong = counting(11, 0, 160);
  const std::array<std::span<const Sample>, 3> clients{a, b, wrong};
  OffsiteTuning tuner{
      model, {.bottom_blocks = 1, .top_blocks = 1, .emulator_blocks = 2}, UniformDrop{}, aggregation};
  for (int round = 0; round < 12; ++round) tuner.round(clients, {.learning_rate = 5e-3, .num_epochs = 1});
  auto tuned = tuner.plug_in().model;
  return score_samples(tuned, counting(3, 0, 40)).scores.loss;
}

}  // namespace

int main() {
  using namespace offsite;
  const Gpt2 model = Gpt2::random({.n_layer = 6,
                                   .n_head = 2,
                                   .n_embd = 32,
                                   .n_positions = 16,
                                   .vocab_size = 40,
                                   .initializer_range = 0.1},
                                  1);
  const double mean = loss_after_rounds(model, FedAvg{}), clipped = loss_after_rounds(model, ClippedMean{});
  std::printf("Loss on what two honest clients want, after 12 rounds with a third one that is wrong:\n");
  std::printf("  weighted mean %.3f, clipped mean %.3f\n", mean, clipped);
  return clipped < mean ? 0 : 1;
}
