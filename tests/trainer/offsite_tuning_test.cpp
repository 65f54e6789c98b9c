#include "offsite/trainer/offsite_tuning.hpp"

#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>

#include <array>
#include <limits>
#include <type_traits>

#include "offsite/blocks/run_blocks.hpp"
#include "offsite/data/packed_batch.hpp"
#include "offsite/emulator/explicit_drop.hpp"
#include "trainer/own_model.hpp"
#include "trainer/toy_data.hpp"

#include "support/test.hpp"

namespace offsite_tuning_test {

using namespace offsite;

namespace {

at::Tensor logits(own::Model& model, const std::vector<Sample>& samples) {
  const auto batch = pack(samples);
  return model.logits(run_blocks<BlockAccess<own::Model>>(model, model.embed(batch.ids, batch.sequences),
                                                          batch.sequences, batch.scored_rows));
}

bool same_bits(const own::Model& a, const own::Model& b) {
  bool same = a.blocks.size() == b.blocks.size();
  for (std::size_t i = 0; same && i < a.blocks.size(); ++i)
    for (const auto member : {&own::Block::w1, &own::Block::w2, &own::Block::bias}) {
      const at::Tensor x = (a.blocks[i].*member).detach().contiguous(),
                       y = (b.blocks[i].*member).detach().contiguous();
      same = same && x.scalar_type() == y.scalar_type() && x.nbytes() == y.nbytes() &&
             std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
    }
  return same;
}

}  // namespace

TEST_CASE("OffsiteTuning: its types follow from the constructor's arguments") {
  const OffsiteTuning plain{own::random_model(5, 1),
                            {.bottom_blocks = 1, .top_blocks = 1, .emulator_blocks = 2}};
  static_assert(std::is_same_v<decltype(plain), const OffsiteTuning<own::Model, UniformDrop, FedAvg,
                                                                    WholeBlocks, BlockAccess<own::Model>>>);
  CHECK(plain.plan().kept() == std::vector<std::int64_t>{0, 1, 3, 4});
  const OffsiteTuning chosen{own::random_model(5, 1),
                             {.bottom_blocks = 1, .top_blocks = 0, .emulator_blocks = 1},
                             ExplicitDrop{{2}},
                             FedAvg{}};
  CHECK(chosen.plan().kept() == std::vector<std::int64_t>{0, 3});
  CHECK_THROWS_WITH_AS((OffsiteTuning{own::random_model(6, 1), {.emulator_blocks = 8}}),
                       "emulator_blocks is 8, but 6 blocks minus 2 bottom and 2 top leave 2", ArgumentError);
}

TEST_CASE_TEMPLATE("OffsiteTuning: a plain struct trains through autograd; the owner's weights stay", Compute,
                   float, c10::BFloat16) {
  const own::Model model = own::random_model(5, 1), before = own::random_model(5, 1);
  OffsiteTuning tuner{model,
                      {.bottom_blocks = 1,
                       .top_blocks = 1,
                       .emulator_blocks = 2,
                       .dtype = c10::CppTypeToScalarType<Compute>::value}};
  const auto samples = toy::samples();
  TrainingOptions options{.learning_rate = 1e-2, .max_steps = 80, .schedule = Schedule::kConstant};
  const auto summary = tuner.train(samples, options);
  CHECK(summary.steps == 80);
  CHECK(summary.losses.back() < 0.4 * summary.losses.front());
  CHECK(same_bits(model, before));

  auto plugged = tuner.plug_in();
  CHECK(plugged.tensors_changed == 6);
  CHECK_FALSE(at::equal(plugged.model.blocks[0].w1, model.blocks[0].w1));
  CHECK(plugged.model.blocks[2].w1.is_same(model.blocks[2].w1));  // shared, not copied
}

TEST_CASE("OffsiteTuning: plugging in untrained adapters is bit-identical, in every dtype, also for -0") {
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kHalf})
    for (const auto compute : {at::kFloat, at::kBFloat16}) {
      own::Model model = own::random_model(4, 3);
      for (auto& block : model.blocks)
        for (const auto member : {&own::Block::w1, &own::Block::w2, &own::Block::bias}) {
          (block.*member).index_put_({at::full({}, 0, at::kLong)}, at::full({}, -0.0));
          block.*member = (block.*member).to(dtype);
        }
      OffsiteTuning tuner{model,
                          {.bottom_blocks = 1, .top_blocks = 1, .emulator_blocks = 2, .dtype = compute}};
      auto plugged = tuner.plug_in();
      CHECK(plugged.tensors_changed == 0);
      CHECK(same_bits(plugged.model, model));

      // The same after a training step at rate 0, which moves nothing but goes through the optimiser.
      tuner.train(toy::samples(), {.learning_rate = 0, .max_steps = 1});
      CHECK(same_bits(tuner.plug_in().model, model));
    }
}

TEST_CASE("OffsiteTuning: plugging in untrained adapters gives a checkpoint's infinities back") {
  own::Model model = own::random_model(4, 3);
  const auto infinity = std::numeric_limits<float>::infinity();
  model.blocks[0].w1.index_put_({at::full({}, 0, at::kLong)}, at::full({}, infinity));
  model.blocks[3].bias.fill_(-infinity);
  OffsiteTuning tuner{model, {.bottom_blocks = 1, .top_blocks = 1, .emulator_blocks = 2}};
  const auto plugged = tuner.plug_in();
  CHECK(plugged.tensors_changed == 0);
  CHECK(same_bits(plugged.model, model));
}

TEST_CASE("OffsiteTuning: with the whole middle kept the client's logits are the full model's") {
  own::Model model = own::random_model(6, 4);
  OffsiteTuning tuner{model, {.bottom_blocks = 2, .top_blocks = 2, .emulator_blocks = 2}};
  CHECK(at::equal(logits(tuner.client().model(), toy::samples()), logits(model, toy::samples())));
}

TEST_CASE("OffsiteTuning: a step over several micro-batches equals the step over their union") {
  const auto samples = toy::samples(6);
  TrainingOptions whole{.learning_rate = 1e-2, .max_steps = 3, .batch_size = 6, .shuffle = false};
  TrainingOptions parts = whole;
  parts.batch_size = 2;
  parts.gradient_accumulation = 3;
  const SplitOptions split{};
  std::vector<at::Tensor> values;
  for (const auto& options : {whole, parts}) {
    OffsiteTuning tuner{own::random_model(5, 5), {.bottom_blocks = 1, .top_blocks = 1, .emulator_blocks = 2}};
    tuner.train(samples, options);
    values.push_back(tuner.client().parameters().values().clone());
  }
  CHECK(at::allclose(values[0], values[1], 1e-5, 1e-6));
}

TEST_CASE("OffsiteTuning: rounds over clients average their updates by samples, and every client counts") {
  const auto a = toy::samples(2), b = toy::samples(5);
  const std::array<std::span<const Sample>, 2> both{a, b};
  const TrainingOptions options{.learning_rate = 1e-2, .num_epochs = 1};
  const OffsiteOptions cut{.bottom_blocks = 1, .top_blocks = 1, .emulator_blocks = 2};

  OffsiteTuning tuner{own::random_model(5, 6), cut};
  const Eigen::VectorXf start = tuner.owner().global();
  const auto summaries = tuner.round(both, options);
  CHECK(summaries[0].samples == 2);
  CHECK(summaries[1].samples == 5);

  std::vector<Eigen::VectorXf> alone;
  for (const auto samples : both) {
    OffsiteTuning one{own::random_model(5, 6), cut};
    one.train(samples, options);
    alone.push_back(one.update(1).delta);
  }
  const Eigen::VectorXf expected = start + (2 * alone[0] + 5 * alone[1]) / 7;
  CHECK((tuner.owner().global() - expected).norm() <= 1e-6f * expected.norm());
  CHECK((tuner.owner().global() - start - alone[0]).norm() > 1e-3f * alone[0].norm());
}

TEST_CASE("OffsiteTuning: trains at one side, and at any blocks") {
  for (const OffsiteOptions& cut : {OffsiteOptions{.bottom_blocks = 0, .top_blocks = 2, .emulator_blocks = 2},
                                    OffsiteOptions{.bottom_blocks = 2, .top_blocks = 0, .emulator_blocks = 2},
                                    OffsiteOptions{.emulator_blocks = 1, .adapter_blocks = {1, 3}}}) {
    OffsiteTuning tuner{own::random_model(5, 7), cut};
    tuner.train(toy::samples(), {.learning_rate = 1e-2, .max_steps = 2});
    const auto plugged = tuner.plug_in();
    CHECK(plugged.tensors_changed == 6);
    for (std::int64_t i = 0; i < 5; ++i) {
      const auto& adapters = tuner.plan().adapters;
      const bool adapter = std::find(adapters.begin(), adapters.end(), i) != adapters.end();
      const auto n = static_cast<std::size_t>(i);
      CHECK(plugged.model.blocks[n].w2.is_same(tuner.owner().model().blocks[n].w2) != adapter);
    }
  }
}

}  // namespace offsite_tuning_test
