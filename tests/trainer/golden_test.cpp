// Training of GPT-2 against the same algorithm in PyTorch: see tests/golden/make_training.py.
#include <ATen/ops/cat.h>

#include <map>

#include "offsite/core/tensors.hpp"
#include "offsite/io/safetensors.hpp"
#include "offsite/trainer/full_fine_tuning.hpp"
#include "offsite/trainer/offsite_tuning.hpp"
#include "support/tensors.hpp"
#include "trainer/golden_training.hpp"

namespace golden_test {

using namespace offsite;
using golden_training::cut, golden_training::model, golden_training::Threads;
using support::relative_error;

namespace {

/// One run of the reference.
struct Run {
  std::string name;
  Json json = read_json(support::golden("training/runs.json")).at(name);
  SafetensorsFile file{support::golden("training/expected.safetensors")};

  [[nodiscard]] TrainingOptions options() const {
    return {.learning_rate = json.at("learning_rate").get<double>(),
            .max_steps = json.at("steps").get<std::int64_t>(),
            .batch_size = json.at("batch_size").get<std::int64_t>(),
            .gradient_accumulation = json.at("gradient_accumulation").get<std::int64_t>(),
            .schedule = Schedule::kLinear,
            .warmup_steps = json.at("warmup").get<std::int64_t>(),
            .weight_decay = json.at("weight_decay").get<double>(),
            .max_grad_norm = json.at("max_grad_norm").get<double>(),
            .adam_beta1 = json.at("adam_beta1").get<double>(),
            .adam_beta2 = json.at("adam_beta2").get<double>(),
            .adam_epsilon = json.at("adam_epsilon").get<double>(),
            .shuffle = false};
  }
  /// What the run's trained tensors are after a step.
  [[nodiscard]] std::map<std::string, at::Tensor> after(std::int64_t step) const {
    const std::string prefix = fmt::format("{}.{}.", name, step);
    std::map<std::string, at::Tensor> tensors;
    for (const auto& key : file.names())
      if (key.starts_with(prefix))
        tensors[key.substr(prefix.size())] = tensor_over(file.at(key), file.owner());
    return tensors;
  }
};

/// Without the third of a fused bias that belongs to the keys: its true gradient is zero, so AdamW makes steps
/// of rounding errors there.
at::Tensor without_keys(const std::string& name, const at::Tensor& t) {
  if (!name.ends_with("attn.c_attn.bias")) return t;
  const auto third = t.size(0) / 3;
  return at::cat({t.narrow(0, 0, third), t.narrow(0, 2 * third, third)});
}

void check_values(const Run& run, std::int64_t step, const FlatParameters& parameters,
                  const at::Tensor& before) {
  const auto expected = run.after(step);
  CHECK(parameters.layout().tensors().size() == expected.size());
  for (const auto& tensor : parameters.layout().tensors()) {
    INFO(run.name, ", step ", step, ": ", tensor.name);
    REQUIRE(expected.contains(tensor.name));
    const at::Tensor theirs = without_keys(tensor.name, expected.at(tensor.name)),
                     ours = without_keys(tensor.name, FlatParameters::view(parameters.values(), tensor)),
                     start = without_keys(tensor.name, FlatParameters::view(before, tensor));
    CHECK(relative_error(ours, theirs) < 1e-4);
    // What a run changes is small beside the values; this is what a mistake in the algorithm shows in.
    CHECK(relative_error(ours.sub(start), theirs.sub(start)) < 1e-3);
    CHECK(support::magnitude(theirs.sub(start)) > 0);
  }
}

/// Trains `tuner` as the reference did, and compares on the way.
template <class Tuner>
void check_run(const Run& run, Tuner& tuner, const FlatParameters& parameters) {
  const auto data = golden_training::samples();
  const at::Tensor before = parameters.values().clone();
  const auto losses = run.json.at("losses").get<std::vector<double>>(),
             norms = run.json.at("norms").get<std::vector<double>>();
  const auto keep = run.json.at("keep").get<std::vector<std::int64_t>>();
  std::size_t kept = 0;
  const auto compare = observe([&](const StepEvent& e) {
    INFO(run.name, ", step ", e.step);
    const auto i = static_cast<std::size_t>(e.step - 1);
    REQUIRE(i < losses.size());
    // Of the first step, packed and padded losses differ by rounding only.
    CHECK(std::abs(e.loss - losses[i]) < (i == 0 ? 1e-6 : 1e-5) * losses[i]);
    CHECK(std::abs(e.grad_norm - norms[i]) < 1e-4 * norms[i]);
    if (std::find(keep.begin(), keep.end(), e.step) == keep.end()) return;
    ++kept;
    check_values(run, e.step, parameters, before);
  });
  CHECK(tuner.train(data, run.options(), {.observers = {compare}}).steps == run.json.at("steps").get<std::int64_t>());
  CHECK(kept == keep.size());
}

}  // namespace

TEST_CASE("OffsiteTuning: 1 and 50 steps equal PyTorch's on every trained tensor") {
  const Threads one(1);
  support::for_each_isa([] {
    OffsiteTuning tuner{model(), cut()};
    check_run(Run{"offsite"}, tuner, tuner.client().parameters());
  });
}

TEST_CASE("Client: steps of two micro-batches, with warm-up, equal PyTorch's on every trained tensor") {
  const Threads one(1);
  const Owner owner{model(), cut().split()};
  Client client{owner.offer()};
  check_run(Run{"accumulated"}, client, client.parameters());
}

TEST_CASE("FullFineTuning: 1 and 20 steps equal PyTorch's on every parameter, a tied head included") {
  const Threads one(1);
  FullFineTuning tuner{model()};
  check_run(Run{"full"}, tuner, tuner.parameters());
}

}  // namespace golden_test
