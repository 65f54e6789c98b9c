#include "offsite/adapters/bottleneck.hpp"

#include <ATen/ops/equal.h>
#include <ATen/ops/linalg_vector_norm.h>

#include "adapters/gradients.hpp"
#include "adapters/layers.hpp"
#include "offsite/adapters/any_adapter.hpp"
#include "offsite/blocks/run_blocks.hpp"
#include "offsite/data/packed_batch.hpp"
#include "offsite/trainer/offsite_tuning.hpp"
#include "support/tensors.hpp"
#include "trainer/golden_training.hpp"

namespace bottleneck_test {

using namespace offsite;
using golden_training::cut, golden_training::model, golden_training::samples;
using support::layer, support::relative_error;

namespace {

using Access = BlockAccess<Gpt2>;
using BottleneckTuner = OffsiteTuning<Gpt2, UniformDrop, FedAvg, Bottleneck>;

Bottleneck bottleneck(double dropout = 0) {
  Bottleneck policy;
  policy.width = 5;
  policy.dropout = dropout;
  return policy;
}

BottleneckTuner disturbed(const Bottleneck& policy) {
  BottleneckTuner tuner(model(), cut(), {}, {}, policy);
  auto& parameters = tuner.client().parameters();
  const at::Tensor change = support::random({parameters.layout().size()}, 3, 0.2);
  parameters.assign(parameters.values().add(change));
  parameters.clear_gradients();
  return tuner;
}

}  // namespace

TEST_CASE(
    "Bottleneck: a network behind attention and one behind the feed-forward part, and nothing else, trains") {
  const Gpt2 full = model();
  BottleneckTuner tuner(full, cut(), {}, {}, bottleneck());
  const auto& layout = tuner.client().parameters().layout();
  const auto C = full.config.n_embd;
  const auto blocks = static_cast<std::int64_t>(tuner.plan().adapters.size());
  CHECK(layout.size() == blocks * 2 * (2 * 5 * C + 5 + C));
  CHECK(layout.find("transformer.h.0.attn.c_proj.bottleneck_down.weight") != nullptr);
  CHECK(layout.find("transformer.h.0.mlp.c_proj.bottleneck_up.bias") != nullptr);
  CHECK_FALSE(layout.find("transformer.h.0.attn.c_proj.bottleneck_up.bias")->decays);
  auto offered = tuner.owner().offer().model;
  const auto down = layer(offered, 0, "mlp.c_proj").bottleneck.down_weight;
  CHECK(down.abs().max().item<double>() <= 1 / std::sqrt(static_cast<double>(C)));
  CHECK(Bottleneck::paper().text() == "bottleneck width=64 dropout=0.1 targets=outputs seed=42");
}

TEST_CASE("Bottleneck: gradients are autograd's, with the last block's chosen rows too") {
  auto tuner = disturbed(bottleneck());
  support::check_gradients(tuner.client(), pack(samples()), bottleneck());
}

TEST_CASE("Bottleneck: with dropout gradients are finite differences") {
  auto tuner = disturbed(bottleneck(0.3));
  auto& parameters = tuner.client().parameters();
  const auto batch = pack(samples());
  const auto loss_at = [&](const at::Tensor& values, std::uint64_t key) {
    parameters.assign(values);
    parameters.clear_gradients();
    return tuner.client().trained().add_gradients(batch, batch.targets.numel(), {0, 0, key}) /
           static_cast<double>(batch.targets.numel());
  };
  const at::Tensor values = parameters.values().clone();
  const double loss = loss_at(values, 5);
  const at::Tensor gradient = parameters.gradients().clone();
  const double norm = at::linalg_vector_norm(gradient).item<double>(), step = 0.005 / norm;
  const double slope =
      (loss_at(values.add(gradient, step), 5) - loss_at(values.sub(gradient, step), 5)) / (2 * step);
  CHECK(slope == doctest::Approx(norm * norm).epsilon(1e-2));
  CHECK(std::abs(loss_at(values, 6) - loss) > 1e-6);
  CHECK(loss_at(values, 5) == loss);
}

TEST_CASE(
    "Bottleneck: what cannot be a checkpoint is refused in one sentence, and so are settings out of range") {
  auto tuner = disturbed(bottleneck());
  auto plugged = tuner.plug_in();
  CHECK(plugged.tensors_changed == 2 * 2 * 4);
  CHECK(layer(plugged.model, 0, "mlp.c_proj").bottleneck.defined());
  const support::TemporaryFolder folder;
  const auto source = support::golden("training/model");
  CHECK(support::message_of<ArgumentError>([&] {
          save_model(plugged.model, source, folder / "m");
        }).find("bottleneck_down.bias'") != std::string::npos);
  const auto refused = [](auto change) {
    Bottleneck policy;
    change(policy);
    return support::message_of<ArgumentError>([&] { BottleneckTuner(model(), cut(), {}, {}, policy); });
  };
  CHECK(refused([](auto& p) { p.width = 0; }) ==
        "the bottleneck's width is 0, but it must be positive and at most 65536");
  auto inputs = bottleneck();
  inputs.targets = {"c_attn"};
  BottleneckTuner behind_inputs(model(), cut(), {}, {}, inputs);
  CHECK(support::message_of<ArgumentError>([&] { (void)behind_inputs.train(samples(), {.max_steps = 1}); }) ==
        "a part of a layer's outputs was asked for, but a bottleneck behind it needs all");
}

}  // namespace bottleneck_test
