// Pretrains the small GPT-2 of the micro-world, from random weights, with the library's own trainer.
//
//     pretrain WORLD OUT
//
// WORLD is what make_world.py wrote; OUT, an existing folder without weights, gets model.safetensors in bfloat16.
//
// First all of the model learns the language. Then the inner blocks alone learn the facts, while the first and the last
// block stay: so what the model knows lies where large models keep it, in the middle, and offsite tuning has something
// to leave with the owner. Takes a few minutes on two cores; the same machine gives the same bytes.
#include <fmt/format.h>

#include <cstdio>
#include <exception>
#include <filesystem>
#include <numeric>
#include <string>
#include <vector>

#include "offsite/adapters/whole_blocks.hpp"
#include "offsite/blocks/visit_parameters.hpp"
#include "offsite/core/process.hpp"
#include "offsite/core/tensors.hpp"
#include "offsite/data/encode.hpp"
#include "offsite/data/load_tokenizer.hpp"
#include "offsite/data/text.hpp"
#include "offsite/io/checkpoint_folder.hpp"
#include "offsite/io/json.hpp"
#include "offsite/models/gpt2.hpp"
#include "offsite/trainer/trained_model.hpp"
#include "offsite/trainer/training_loop.hpp"

namespace {

using namespace offsite;

constexpr std::uint64_t kSeed = 7;

std::vector<std::int64_t> counting(std::int64_t begin, std::int64_t end) {
  std::vector<std::int64_t> numbers(static_cast<std::size_t>(end - begin));
  std::iota(numbers.begin(), numbers.end(), begin);
  return numbers;
}

/// The model after it read the text so many steps long. \param places  the blocks that learn, beside what is shared
Gpt2 learn(Gpt2 model, std::vector<std::int64_t> places, const std::filesystem::path& world, const char* name,
           std::int64_t steps) {
  EncodeOptions encoding;
  encoding.max_length = model.config.n_positions;
  const auto text =
      encode_for_training(Text{}.read(world / name), Text::kScoring, load_tokenizer(world), encoding);

  TrainingOptions options;
  options.max_steps = steps;
  options.learning_rate = 3e-3;
  options.schedule = Schedule::kCosine;
  options.warmup_steps = 100;
  options.weight_decay = 0.1;
  options.adam_beta2 = 0.99;
  options.seed = kSeed;
  options.logging_steps = 100;
  TrainingHooks hooks;
  hooks.observers.push_back(observe([&](const LogEvent& e) {
    fmt::print("{}, step {} of {}: loss {:.3f}\n", name, e.step, steps, e.loss);
    std::fflush(stdout);
  }));
  const auto numbers = counting(0, static_cast<std::int64_t>(model.blocks.size()));
  TrainedModel<Gpt2> trained(std::move(model), numbers, {std::move(places), true}, at::kFloat, WholeBlocks{});
  const auto add_gradients = [&](const PackedBatch& batch, std::int64_t scored, const Dropout& dropout) {
    return trained.add_gradients(batch, scored, dropout);
  };
  TrainingLoop(trained.parameters(), add_gradients, text.samples, options, hooks).run();
  return trained.model();
}

void save(Gpt2& model, const std::filesystem::path& out) {
  std::vector<at::Tensor> narrow;  // owns what the views show
  std::vector<NamedView> views;
  visit_parameters<BlockAccess<Gpt2>>(model, counting(0, model.config.n_layer),
                                      [&](const std::string& name, const at::Tensor& tensor) {
                                        narrow.push_back(tensor.detach().to(at::kBFloat16).contiguous());
                                        views.push_back({name, view_of(narrow.back())});
                                      });
  save_checkpoint(out, views);
}

}  // namespace

int main(int argc, char** argv) try {
  require(argc == 3, "usage: pretrain WORLD OUT");
  keep_freed_memory();
  const std::filesystem::path world = argv[1];
  const auto config = Gpt2Config::from_json(read_json(world / "config.json"));
  Gpt2 model = Gpt2::random(config, kSeed);
  model = learn(model, counting(0, config.n_layer), world, "language.txt", 400);
  model = learn(model, counting(1, config.n_layer - 1), world, "facts.txt", 1800);
  save(model, argv[2]);
} catch (const std::exception& error) {
  fmt::print(stderr, "pretrain: {}\n", error.what());
  return 1;
}
