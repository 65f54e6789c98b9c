// Blocks that keep their input alone: the same gradients in less memory.
#include <ATen/ops/equal.h>
#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "models/conformance.hpp"
#include "models/small_llama.hpp"
#include "offsite/adapters/any_adapter.hpp"
#include "offsite/models/llama.hpp"
#include "offsite/trainer/full_fine_tuning.hpp"
#include "offsite/trainer/offsite_tuning.hpp"
#include "trainer/golden_training.hpp"
#include "trainer/own_model.hpp"
#include "trainer/toy_data.hpp"

#include "support/test.hpp"

namespace recompute_test {

using namespace offsite;

namespace {

/// The most that LibTorch's allocator gave out at a time while this lives, beyond what it had given before.
class PeakMemory {
 public:
  PeakMemory()
      : counter_(std::make_shared<Counter>()), guard_(c10::DebugInfoKind::PROFILER_STATE, counter_) {}
  [[nodiscard]] std::int64_t bytes() const { return counter_->peak; }

 private:
  struct Counter : c10::MemoryReportingInfoBase {
    std::int64_t now = 0, peak = 0;
    void reportMemoryUsage(void*, std::int64_t size, std::size_t, std::size_t, c10::Device) override {
      now += size;
      peak = std::max(peak, now);
    }
    bool memoryProfilingEnabled() const override { return true; }
  };
  std::shared_ptr<Counter> counter_;
  c10::DebugInfoGuard guard_;
};

struct Pass {
  double loss;
  at::Tensor gradients;
  std::int64_t peak;
};

template <class Trained>
Pass pass(Trained& trained, const PackedBatch& batch, std::int64_t every) {
  const Dropout dropout{.attention = 0.1, .residual = 0.2, .key = 7};
  trained.recompute(every);
  for (int warm = 0;; ++warm) {
    trained.parameters().clear_gradients();
    const PeakMemory memory;
    const double loss = trained.add_gradients(batch, batch.targets.numel(), dropout);
    if (warm > 0) return {loss, trained.parameters().gradients().clone(), memory.bytes()};
  }
}

/// \returns bytes by which recomputing all blocks takes less than every other one
template <class Trained>
std::int64_t check_recomputing(Trained& trained, const PackedBatch& batch) {
  const Pass kept = pass(trained, batch, 0), all = pass(trained, batch, 1), half = pass(trained, batch, 2);
  for (const auto* other : {&all, &half}) {
    CHECK(other->loss == kept.loss);
    CHECK(at::equal(other->gradients, kept.gradients));
  }
  CHECK(kept.gradients.abs().max().item<float>() > 0);
  CHECK(all.peak <= half.peak);  // a head or a weight's gradient may be what is left
  CHECK(half.peak < kept.peak);
  return half.peak - all.peak;
}

template <class Model>
void check_family(const Model& model, const PackedBatch& batch) {
  for (const auto dtype : {at::kFloat, at::kBFloat16})
    for (const auto* text : {"whole_blocks", "lora rank=2 dropout=0.1"}) {
      CAPTURE(text);
      const auto policy = PlacedAdapters::parse(text);
      OffsiteTuning tuner{model,
                          {.bottom_blocks = 1, .top_blocks = 1, .emulator_blocks = 2, .dtype = dtype},
                          UniformDrop{},
                          FedAvg{},
                          policy};
      (void)check_recomputing(tuner.client().trained(), batch);
    }
}

}  // namespace

TEST_CASE("TrainedModel: recomputing blocks changes no bit of losses and gradients, and takes less memory") {
  check_family(golden_training::model(), pack(golden_training::samples()));
  check_family(conformance::small<Llama>(conformance::small_llama()), pack(toy::samples(12)));
  OffsiteTuning<own::Model> own{own::random_model(5, 1),
                                {.bottom_blocks = 1, .top_blocks = 1, .emulator_blocks = 3}};
  CHECK(check_recomputing(own.client().trained(), pack(toy::samples(30))) > 0);  // through autograd
}

TEST_CASE(
    "TrainedModel: whole runs with recomputing end with the same bits, shared parameters trained or not") {
  const auto samples = golden_training::samples();
  const auto model = golden_training::model();
  const auto values = [&](auto&& tuner, std::int64_t every) {
    (void)tuner.train(samples, {.max_steps = 3, .residual_dropout = 0.1, .recompute = every});
    return tuner.parameters().values().clone();
  };
  const auto client = [&] { return OffsiteTuning{model, golden_training::cut()}; };
  auto a = client(), b = client();
  CHECK(at::equal(values(a.client(), 0), values(b.client(), 1)));
  CHECK(at::equal(values(FullFineTuning{model}, 0), values(FullFineTuning{model}, 2)));
  CHECK_THROWS_AS(values(a.client(), -1), ArgumentError);
}

}  // namespace recompute_test
