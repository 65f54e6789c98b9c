#include "offsite/adapters/lora.hpp"

#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>

#include <array>
#include <cstring>

#include "adapters/gradients.hpp"
#include "adapters/layers.hpp"
#include "offsite/adapters/any_adapter.hpp"
#include "offsite/blocks/cast.hpp"
#include "offsite/blocks/run_blocks.hpp"
#include "offsite/data/packed_batch.hpp"
#include "offsite/trainer/offsite_tuning.hpp"
#include "support/tensors.hpp"
#include "trainer/golden_training.hpp"

namespace lora_test {

using namespace offsite;
using golden_training::cut, golden_training::model, golden_training::samples;
using support::layer, support::relative_error;

namespace {

using Access = BlockAccess<Gpt2>;

at::Tensor logits(Gpt2& m, const PackedBatch& batch) {
  return m.logits(
      run_blocks<Access>(m, m.embed(batch.ids, batch.sequences), batch.sequences, batch.scored_rows));
}

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() &&
         std::memcmp(a.contiguous().const_data_ptr(), b.contiguous().const_data_ptr(), a.nbytes()) == 0;
}

bool same_bits(Gpt2& a, Gpt2& b) {
  std::vector<at::Tensor> first;
  const std::vector<std::int64_t> all{0, 1, 2, 3, 4, 5};
  visit_parameters<Access>(a, all, [&](const std::string&, at::Tensor& t) { first.push_back(t); });
  std::size_t next = 0;
  bool same = true;
  visit_parameters<Access>(b, all, [&](const std::string&, at::Tensor& t) {
    same = same && next < first.size() && same_bits(first[next++], t);
  });
  return same && next == first.size();
}

Lora lora(std::int64_t rank, bool rslora = false, bool dora = false, double dropout = 0) {
  Lora policy;
  policy.rank = rank;
  policy.rslora = rslora;
  policy.dora = dora;
  policy.dropout = dropout;
  return policy;
}
const std::array kKinds{lora(1), lora(4), lora(4, true), lora(3, false, true), lora(2, true, true)};

template <class Policy>
using Tuner = OffsiteTuning<Gpt2, UniformDrop, FedAvg, Policy>;

template <class Policy>
Tuner<Policy> tuner(const Gpt2& m, const Policy& policy, at::ScalarType dtype = at::kFloat) {
  auto options = cut();
  options.dtype = dtype;
  return Tuner<Policy>(m, options, {}, {}, policy);
}

/// Gives all trained values some random change, so that nothing is zero.
void disturb(FlatParameters& parameters, double by) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(3);
  parameters.assign(parameters.values().add(at::empty_like(parameters.values()).normal_(0, by, generator)));
}

const TrainingOptions kOptions{.learning_rate = 1e-3,
                               .max_steps = 6,
                               .batch_size = 6,
                               .schedule = Schedule::kConstant,
                               .logging_steps = 1};

}  // namespace

TEST_CASE("Lora: attached and untrained it changes no bit, in the sub-model and plugged in") {
  Gpt2 full = model();
  const auto batch = pack(samples());
  for (const auto& policy : kKinds)
    for (const auto type : {at::kFloat, at::kBFloat16}) {
      CAPTURE(policy.text());
      auto plain = tuner(full, WholeBlocks{}, type);
      auto tuned = tuner(full, policy, type);
      // In bfloat16 DoRA's row norms are those of the rounded weights.
      if (!policy.dora || type == at::kFloat)
        CHECK(at::equal(logits(tuned.client().model(), batch), logits(plain.client().model(), batch)));
      auto plugged = tuned.plug_in();
      CHECK(plugged.tensors_changed == 0);
      CHECK(same_bits(plugged.model, full));
      CHECK_FALSE(layer(tuned.owner().model(), 0, "attn.c_attn").low_rank.defined());
    }
}

TEST_CASE("Lora: only factors are trained; their number follows from rank and widths") {
  const Gpt2 full = model();
  auto policy = lora(4);
  policy.targets = {"c_attn"};
  auto tuned = tuner(full, policy);
  const auto C = full.config.n_embd;
  const auto& layout = tuned.client().parameters().layout();
  const auto blocks = static_cast<std::int64_t>(tuned.plan().adapters.size());
  CHECK(layout.size() == blocks * 4 * (C + 3 * C));
  CHECK(layout.tensors().front().name == "transformer.h.0.attn.c_attn.lora_A.weight");
  CHECK(layout.tensors().front().shape == std::vector<std::int64_t>{4, C});
  CHECK(layout.tensors()[1].name == "transformer.h.0.attn.c_attn.lora_B.weight");
  CHECK(layout.tensors()[1].shape == std::vector<std::int64_t>{3 * C, 4});
  CHECK(layout == tuned.owner().layout());
}

TEST_CASE("Lora: A starts as the seed and the layer's name say, within 1/sqrt(in)") {
  const Gpt2 full = model();
  auto tuned = tuner(full, lora(4)), again = tuner(full, lora(4));
  auto other = lora(4);
  other.seed = 1;
  auto different = tuner(full, other);
  CHECK(tuned.owner().global() == again.owner().global());
  CHECK(tuned.owner().global() != different.owner().global());
  auto offered = tuned.owner().offer().model;
  const auto& a0 = layer(offered, 0, "attn.c_attn").low_rank.a;
  const auto& a1 = layer(offered, 3, "attn.c_attn").low_rank.a;
  CHECK_FALSE(at::equal(a0, a1));
  const double bound = 1 / std::sqrt(static_cast<double>(full.config.n_embd));
  CHECK(a0.abs().max().item<double>() <= bound);
  CHECK(a0.abs().max().item<double>() > 0.9 * bound);
  CHECK(std::abs(a0.mean().item<double>()) < 0.2 * bound);
}

TEST_CASE("Lora: merged equals unmerged") {
  const Gpt2 full = model();
  const auto batch = pack(samples());
  for (const auto& policy : kKinds) {
    CAPTURE(policy.text());
    auto tuned = tuner(full, policy);
    auto& client = tuned.client();
    disturb(client.parameters(), 0.05);
    Gpt2 merged = Access::select(client.model(), std::vector<std::int64_t>{0, 1, 2, 3});
    MergeReport report;
    const at::Tensor unmerged = logits(client.model(), batch);
    for (auto& block : merged.blocks) merge_modules<Access>(block, report);
    CHECK(report.tensors_changed == 4 * static_cast<std::int64_t>(tuned.plan().adapters.size()));
    CHECK(relative_error(logits(merged, batch), unmerged) < 1e-5);
    auto plain = tuner(full, WholeBlocks{});
    CHECK(relative_error(logits(plain.client().model(), batch), unmerged) > 1e-2);
    CHECK(layer(client.model(), 0, "attn.c_attn").low_rank.defined());  // the other copy keeps its factors
  }
}

TEST_CASE("Lora: gradients are autograd's, with the last block's chosen rows too") {
  const Gpt2 full = model();
  const auto batch = pack(samples());
  for (const auto& policy : kKinds) {
    CAPTURE(policy.text());
    auto tuned = tuner(full, policy);
    auto& client = tuned.client();
    disturb(client.parameters(), 0.05);
    support::check_gradients(client, batch, policy);
  }
}

TEST_CASE("Lora: with dropout gradients are finite differences; masks depend on the sample, not the batch") {
  const Gpt2 full = model();
  const auto data = samples();
  const auto batch = pack(data);
  auto tuned = tuner(full, lora(4, false, false, 0.3));
  auto& parameters = tuned.client().parameters();
  auto& trained = tuned.client().trained();
  disturb(parameters, 0.05);
  const Dropout dropout{0, 0, 77};
  const auto gradient_of = [&](const PackedBatch& b, const Dropout& d) {
    parameters.clear_gradients();
    const double loss = trained.add_gradients(b, batch.targets.numel(), d);
    return std::pair(loss / static_cast<double>(batch.targets.numel()), parameters.gradients().clone());
  };
  const auto [loss, gradient] = gradient_of(batch, dropout);
  CHECK(same_bits(gradient_of(batch, dropout).second, gradient));
  CHECK(relative_error(gradient_of(batch, {0, 0, 78}).second, gradient) > 1e-2);

  const at::Tensor values = parameters.values().clone();
  const at::Tensor direction = gradient.div(at::linalg_vector_norm(gradient));
  const auto loss_at = [&](double by) {
    parameters.assign(values.add(direction, by));
    return gradient_of(batch, dropout).first;
  };
  const double step = 0.02, slope = (loss_at(step) - loss_at(-step)) / (2 * step);
  parameters.assign(values);
  CHECK(slope == doctest::Approx(at::linalg_vector_norm(gradient).item<double>()).epsilon(5e-3));

  at::Tensor sum;
  for (const std::vector<std::int64_t>& part : {std::vector<std::int64_t>{2, 0}, {1}, {3, 4, 5}}) {
    const auto g = gradient_of(pack(data, part), dropout).second;
    sum = sum.defined() ? sum.add(g) : g;
  }
  std::vector<std::int64_t> six{0, 1, 2, 3, 4, 5};
  CHECK(relative_error(sum, gradient_of(pack(data, six), dropout).second) < 1e-5);

  // Evaluation drops nothing.
  for (const auto i : {0, 3})
    CHECK(layer(tuned.client().model(), i, "attn.c_attn").low_rank.dropout.pass == nullptr);
}

TEST_CASE(
    "Lora: in bfloat16 frozen weights are shared in that type, and only factors lie in the flat buffer") {
  Gpt2 full = cast_model<Access>(model(), at::kBFloat16);
  auto tuned = tuner(full, lora(4), at::kBFloat16);
  auto& client = tuned.client();
  CHECK(layer(client.model(), 0, "attn.c_attn").weight.const_data_ptr() ==
        layer(full, 0, "attn.c_attn").weight.const_data_ptr());
  CHECK((layer(client.model(), 0, "attn.c_attn").low_rank.a.scalar_type() == at::kBFloat16));
  CHECK((client.parameters().values().scalar_type() == at::kFloat));
  const auto before = client.parameters().values().clone();
  const auto summary = tuned.train(samples(), kOptions);
  CHECK(summary.losses.back() < summary.losses.front());
  CHECK_FALSE(at::equal(before, client.parameters().values()));
}

TEST_CASE("Lora: training makes the loss fall and stays off the frozen weights") {
  for (const auto& policy : kKinds) {
    CAPTURE(policy.text());
    Gpt2 full = model();
    auto tuned = tuner(full, policy);
    auto options = kOptions;
    options.learning_rate = 1e-2;
    options.max_steps = 12;
    const auto summary = tuned.train(samples(), options);
    CHECK(summary.losses.back() < summary.losses.front() - 0.02);
    Gpt2 untouched = model();
    CHECK(same_bits(full, untouched));
    auto plugged = tuned.plug_in();
    CHECK(plugged.tensors_changed == 4 * static_cast<std::int64_t>(tuned.plan().adapters.size()));
    CHECK(layer(plugged.model, 2, "attn.c_attn").weight.is_same(layer(full, 2, "attn.c_attn").weight));
    CHECK(layer(plugged.model, 0, "attn.c_attn").bias.is_same(layer(full, 0, "attn.c_attn").bias));
    CHECK_FALSE(layer(plugged.model, 0, "attn.c_attn").low_rank.defined());
  }
}

TEST_CASE("Lora: a round of two clients averages the factors") {
  const Gpt2 full = model();
  const auto data = samples();
  auto tuned = tuner(full, lora(2));
  const auto half = data.size() / 2;
  const std::array<std::span<const Sample>, 2> clients{std::span(data).first(half),
                                                       std::span(data).subspan(half)};
  const auto options = kOptions;
  (void)tuned.round(clients, options);

  Eigen::VectorXf expected = tuner(full, lora(2)).owner().global();
  std::vector<Eigen::VectorXf> deltas;
  double total = 0;
  for (const auto part : clients) {
    auto one = tuner(full, lora(2));
    const auto summary = one.train(part, options);
    const auto weight = static_cast<double>(summary.samples);
    deltas.push_back(one.update(weight).delta * static_cast<float>(weight));
    total += weight;
  }
  for (const auto& delta : deltas) expected += delta / static_cast<float>(total);
  CHECK((tuned.owner().global() - expected).norm() < 1e-5f * expected.norm());
}

TEST_CASE("Lora: the mean of merged changes is the mean of the products, which averaging factors is not") {
  Gpt2 full = model();
  const auto policy = lora(2);
  std::vector<ClientUpdate> updates;
  at::Tensor expected = layer(full, 0, "mlp.c_fc").weight.clone();
  const double weights[] = {3, 1};
  for (std::uint64_t i = 0; i < 2; ++i) {
    auto one = tuner(full, policy);
    auto& parameters = one.client().parameters();
    parameters.assign(parameters.values().add(support::random({parameters.layout().size()}, i, 0.1)));
    updates.push_back(one.update(weights[i]));
    expected.add_(layer(one.client().model(), 0, "mlp.c_fc").low_rank.delta().t(), weights[i] / 4);
  }
  auto tuned = tuner(full, policy);
  const Eigen::VectorXf before = tuned.owner().global();
  auto exact = tuned.owner().plug_in_merged_mean(updates);
  CHECK(tuned.owner().global() == before);
  CHECK(exact.tensors_changed == 8);
  CHECK(relative_error(layer(exact.model, 0, "mlp.c_fc").weight, expected) < 1e-6);
  auto one = tuned.owner().plug_in_merged_mean(std::span(updates).first(1));
  tuned.owner().aggregate(updates);
  auto averaged = tuned.owner().plug_in();
  const auto& original = layer(full, 0, "mlp.c_fc").weight;
  CHECK(relative_error(layer(averaged.model, 0, "mlp.c_fc").weight.sub(original), expected.sub(original)) >
        0.05);

  auto alone = tuner(full, policy);
  alone.owner().aggregate(std::span(updates).first(1));
  auto same = alone.owner().plug_in();
  CHECK(relative_error(layer(one.model, 5, "attn.c_attn").weight,
                       layer(same.model, 5, "attn.c_attn").weight) < 1e-6);

  // Nothing trained: the model's own bytes, in bfloat16 too.
  Gpt2 narrow = cast_model<Access>(full, at::kBFloat16);
  auto untrained = tuner(narrow, policy);
  auto plugged = untrained.owner().plug_in_merged_mean(std::vector{untrained.update(1), untrained.update(2)});
  CHECK(plugged.tensors_changed == 0);
  CHECK(same_bits(plugged.model, narrow));
}

TEST_CASE("Lora: settings out of range and targets that name nothing give one sentence") {
  const Gpt2 full = model();
  const auto refused = [&](auto change) {
    Lora policy;
    change(policy);
    return support::message_of<ArgumentError>([&] { tuner(full, policy); });
  };
  CHECK(refused([](auto& p) { p.rank = 0; }) ==
        "LoRA's rank is 0, but it must be positive and at most 65536");
  CHECK(refused([](auto& p) { p.alpha = 0; }) == "LoRA's alpha is 0, but it must be positive");
  CHECK(refused([](auto& p) { p.dropout = 1; }) ==
        "LoRA's dropout is 1, but it must be at least 0 and below 1");
  CHECK(refused([](auto& p) {
          p.targets = {"c_attn", "q_proj"};
        }) ==
        "the target 'q_proj' names no linear layer of the blocks that train, such as "
        "transformer.h.0.mlp.c_proj");
  CHECK(refused([](auto& p) { p.targets = {"a;b"}; }) ==
        "a target is 'a;b', but targets are the ends of layers' names, such as c_attn or attn.c_proj");
}

}  // namespace lora_test
