// Adapter policies know linear layers, and models know no policy: so every family has them all.
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/zeros_like.h>

#include <set>

#include "models/conformance.hpp"
#include "offsite/adapters/any_adapter.hpp"
#include "offsite/models/bloom.hpp"
#include "offsite/models/gpt_neox.hpp"
#include "offsite/models/llama.hpp"
#include "offsite/models/opt.hpp"
#include "support/test.hpp"

namespace families_test {

using namespace offsite;
using support::relative_error;

namespace {

template <class Model>
ConfigOf<Model> config(const char* fields) {
  auto json = ConfigOf<Model>{}.to_json();
  json.update(conformance::json(fields));
  return ConfigOf<Model>::from_json(json);
}

std::vector<Sample> samples() {
  std::vector<Sample> all;
  for (const std::int64_t length : {7, 12, 4, 9}) {
    Sample sample;
    for (std::int64_t i = 0; i < length; ++i)
      sample.tokens.push_back(static_cast<std::int32_t>((i * 7 + length * 3) % 61));
    sample.scored_from = length / 2;
    sample.number = static_cast<std::int64_t>(all.size());
    all.push_back(sample);
  }
  return all;
}

template <class Model>
at::Tensor logits(Model& m, const PackedBatch& batch) {
  return m.logits(run_blocks<BlockAccess<Model>>(m, m.embed(batch.ids, batch.sequences), batch.sequences,
                                                 batch.scored_rows));
}

/// \param layers  linear layers of a block
template <class Model>
void check_policies(const ConfigOf<Model>& of, std::size_t layers) {
  using Access = BlockAccess<Model>;
  using Tuner = OffsiteTuning<Model, UniformDrop, FedAvg, PlacedAdapters>;
  const OffsiteOptions cut{.bottom_blocks = 1, .top_blocks = 1, .emulator_blocks = 1};
  Model full = conformance::small<Model>(of);
  const auto data = samples();
  const auto batch = pack(data);
  OffsiteTuning plain{full, cut};
  const at::Tensor before = logits(plain.client().model(), batch);
  for (const auto* text : {"lora rank=2", "lora rank=2 dora rslora", "bottleneck width=3", "bitfit norms"}) {
    const std::string policy = text;
    CAPTURE(policy);
    Tuner tuner(full, cut, {}, {}, PlacedAdapters::parse(policy));
    auto& client = tuner.client();
    CHECK(at::equal(logits(client.model(), batch), before));
    CHECK(tuner.plug_in().tensors_changed == 0);

    // The readable pass on copies of what trains, all rows, against the hand-written one.
    auto& parameters = client.parameters();
    parameters.assign(parameters.values().add(support::random({parameters.layout().size()}, 9, 0.05)));
    parameters.clear_gradients();
    (void)client.trained().add_gradients(batch, batch.targets.numel(), {});
    Model reference = client.model();
    std::vector<at::Tensor> leaves;
    std::set<std::string> wanted;
    for (const auto& t : parameters.layout().tensors()) wanted.insert(t.name);
    const auto kept = tuner.plan().kept();
    visit_parameters<Access>(reference, kept, [&](const std::string& name, at::Tensor& t) {
      if (!wanted.contains(name)) return;
      t = t.detach().clone().set_requires_grad(true);
      leaves.push_back(t);
    });
    at::Tensor h = reference.embed(batch.ids, batch.sequences);
    for (auto& block : reference.blocks) h = Access::forward(block, h, batch.sequences);
    at::cross_entropy_loss(reference.logits(h.index_select(0, batch.scored_rows)), batch.targets, {},
                           at::Reduction::Mean)
        .backward();
    REQUIRE(leaves.size() == parameters.layout().tensors().size());
    if (policy == "lora rank=2") CHECK(leaves.size() == 2 * layers * 2);
    const at::Tensor expected = at::zeros_like(parameters.values());
    for (std::size_t i = 0; i < leaves.size(); ++i)
      FlatParameters::view(expected, parameters.layout().tensors()[i]).copy_(leaves[i].grad());
    CHECK(relative_error(parameters.gradients(), expected) < 2e-5);

    Tuner trained(full, cut, {}, {}, PlacedAdapters::parse(policy));
    const auto summary = trained.train(
        data, {.learning_rate = 1e-2, .max_steps = 6, .schedule = Schedule::kConstant, .logging_steps = 1});
    CHECK(summary.losses.back() < summary.losses.front());
    CHECK(trained.plug_in().tensors_changed > 0);
  }
}

}  // namespace

TEST_CASE("adapters: OPT has every policy, gradients equal autograd's") {
  check_policies<Opt>(config<Opt>(R"({"num_hidden_layers": 4, "num_attention_heads": 3, "hidden_size": 24,
      "ffn_dim": 20, "max_position_embeddings": 40, "vocab_size": 61, "word_embed_proj_dim": 24})"),
                      6);
}

TEST_CASE("adapters: BLOOM has every policy, gradients equal autograd's") {
  check_policies<Bloom>(config<Bloom>(R"({"n_layer": 4, "n_head": 3, "hidden_size": 24, "vocab_size": 61})"),
                        4);
}

TEST_CASE("adapters: GPT-NeoX has every policy, gradients equal autograd's") {
  check_policies<GptNeox>(
      config<GptNeox>(R"({"num_hidden_layers": 4, "num_attention_heads": 3, "hidden_size": 24,
      "intermediate_size": 20, "max_position_embeddings": 40, "vocab_size": 61})"),
      4);
}

TEST_CASE("adapters: Llama has every policy, gradients equal autograd's") {
  check_policies<Llama>(config<Llama>(R"({"num_hidden_layers": 4, "num_attention_heads": 4, "hidden_size": 24,
      "intermediate_size": 20, "max_position_embeddings": 40, "vocab_size": 61, "num_key_value_heads": 2})"),
                        7);
}

}  // namespace families_test
