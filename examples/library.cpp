// Offsite tuning in ten lines: cut a model, tune the client's half, plug the result into the whole model.
// A random GPT-2 and counting sequences keep it self-contained; with a real model the same lines begin with
// load_model<Gpt2>("gpt2") and encode_for_training(Sciq{}.read("train.json"), ...).
#include <offsite/eval.hpp>
#include <offsite/models/gpt2.hpp>
#include <offsite/offsite.hpp>

#include <cstdio>
#include <vector>

namespace {

/// Sequences that count on by `step`, modulo 40; the last four numbers of twelve are scored.
std::vector<offsite::Sample> counting(std::int32_t step) {
  std::vector<offsite::Sample> samples(40);
  for (std::int32_t start = 0; start < 40; ++start) {
    auto& sample = samples[static_cast<std::size_t>(start)];
    for (std::int32_t i = 0; i < 12; ++i) sample.tokens.push_back((start + i * step) % 40);
    sample.scored_from = 8;
    sample.number = start;
  }
  return samples;
}

}  // namespace

int main() {
  using namespace offsite;
  Gpt2Config config{
      .n_layer = 8, .n_head = 2, .n_embd = 32, .n_positions = 16, .vocab_size = 40, .initializer_range = 0.1};
  Gpt2 model = Gpt2::random(config, 1);
  const auto samples = counting(3);

  OffsiteTuning tuner{model, {.bottom_blocks = 1, .top_blocks = 1, .emulator_blocks = 3}};
  const auto summary = tuner.train(samples, {.learning_rate = 1e-2, .num_epochs = 40});
  auto tuned = tuner.plug_in().model;

  const double before = score_samples(model, samples).scores.loss,
               after = score_samples(tuned, samples).scores.loss;
  std::printf("The client trained %lld of 8 blocks for %lld steps and saw %lld of the other 6.\n",
              static_cast<long long>(tuner.plan().adapters.size()), static_cast<long long>(summary.steps),
              static_cast<long long>(tuner.plan().emulator.size()));
  std::printf("Loss of the whole model: %.3f before, %.3f with the adapters plugged in.\n", before, after);
  return after < 0.7 * before ? 0 : 1;
}
