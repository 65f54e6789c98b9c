#include "offsite/trainer/training_loop.hpp"

#include <ATen/ops/equal.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "offsite/trainer/offsite_tuning.hpp"
#include "offsite/trainer/training_checkpoint.hpp"
#include "trainer/own_model.hpp"
#include "trainer/toy_data.hpp"

#include "support/test.hpp"

namespace training_loop_test {

using namespace offsite;

namespace {

using Tuner = OffsiteTuning<own::Model>;

Tuner tuner(at::ScalarType dtype = at::kFloat) {
  return Tuner{own::random_model(5, 1),
               {.bottom_blocks = 1, .top_blocks = 1, .emulator_blocks = 2, .dtype = dtype}};
}

/// An evaluation that gives these losses one after another.
std::function<EvaluationMetrics()> scripted(std::vector<double> losses) {
  return [losses, next = std::size_t{0}]() mutable {
    const double loss = losses.at(std::min(next++, losses.size() - 1));
    return EvaluationMetrics{loss, 1 / (1 + loss), {}};
  };
}

const std::vector<Sample> kSamples = toy::samples(20);
const TrainingOptions kOptions{.learning_rate = 5e-3, .num_epochs = 2, .batch_size = 3, .logging_steps = 2};

}  // namespace

TEST_CASE("TrainingLoop: an epoch's last, smaller batch and accumulation count as a step") {
  auto t = tuner();
  const auto summary = t.train(kSamples, {.num_epochs = 1, .batch_size = 3, .gradient_accumulation = 2});
  CHECK(summary.steps == 4);  // 7 batches of 20 samples, in pairs
  CHECK(summary.samples == 20);
  CHECK(summary.epochs == 1);
  CHECK(summary.scored_tokens == 60);
  std::int64_t rows = 0;
  for (const auto& sample : kSamples) rows += sample.rows();
  CHECK(summary.tokens == rows);
  CHECK(tuner().train(kSamples, {.num_epochs = 1.5, .batch_size = 3}).steps == 11);  // 7 + ceil(3.5)
  CHECK(tuner().train(kSamples, {.max_steps = 9, .batch_size = 20}).epochs == 9);
}

TEST_CASE("TrainingLoop: repeats bit for bit from its seed, and differs for another") {
  auto a = tuner(), b = tuner(), c = tuner();
  a.train(kSamples, kOptions);
  b.train(kSamples, kOptions);
  auto other = kOptions;
  other.seed = 43;
  c.train(kSamples, other);
  CHECK(at::equal(a.client().parameters().values(), b.client().parameters().values()));
  CHECK_FALSE(at::equal(a.client().parameters().values(), c.client().parameters().values()));
}

TEST_CASE_TEMPLATE(
    "TrainingLoop: a run interrupted anywhere and resumed equals an uninterrupted one bit for bit", Compute,
    float, c10::BFloat16) {
  const auto dtype = c10::CppTypeToScalarType<Compute>::value;
  auto options = kOptions;
  options.keep_best = true;
  options.eval_steps = 3;
  const std::vector<double> losses{3, 1, 2, 2, 2};
  auto whole = tuner(dtype);
  const auto expected = whole.train(kSamples, options, {.evaluate = scripted(losses)});
  REQUIRE(expected.steps == 14);
  CHECK(expected.best_step == 6);

  for (const std::int64_t stop : {1, 2, 5, 6, 7, 8, 13}) {
    support::TemporaryFolder folder;
    std::int64_t seen = 0;
    const auto count = observe([&](const StepEvent& e) { seen = e.step; });
    auto first = tuner(dtype);
    const auto cut = first.train(kSamples, options,
                                 {.observers = {count},
                                  .evaluate = scripted(losses),
                                  .checkpoints = checkpoints_in(folder / "checkpoints"),
                                  .interrupted = [&] { return seen == stop; }});
    CHECK(cut.interrupted);
    CHECK(cut.steps == stop);

    auto second = tuner(dtype);
    const std::vector<double> rest(losses.begin() + stop / 3, losses.end());
    const auto resumed = second.train(
        kSamples, options,
        {.evaluate = scripted(rest), .checkpoints = checkpoints_in(folder / "checkpoints"), .resume = true});
    CHECK(at::equal(second.client().parameters().values(), whole.client().parameters().values()));
    CHECK(
        at::equal(second.client().parameters().second_moment(), whole.client().parameters().second_moment()));
    CHECK(resumed.losses == expected.losses);
    CHECK(resumed.best_step == expected.best_step);
    CHECK(resumed.tokens == expected.tokens);
    CHECK(resumed.samples == expected.samples);
  }
}

TEST_CASE("TrainingLoop: FedProx's term pulls towards the values that training began with, resumed or not") {
  auto options = kOptions;
  options.proximal_mu = 10;
  auto free = tuner(), held = tuner(), first = tuner(), resumed = tuner();
  const at::Tensor start = held.client().parameters().values().clone();
  const auto distance = [&](Tuner& t) {
    return t.client().parameters().values().sub(start).norm().item<double>();
  };

  (void)free.train(kSamples, kOptions);
  (void)held.train(kSamples, options);
  CHECK(distance(held) < 0.9 * distance(free));

  // Until values leave the anchor there is nothing to pull: the first step is the same bits.
  auto one_step = kOptions;
  one_step.max_steps = 1;
  auto plain = tuner(), pulled = tuner();
  (void)plain.train(kSamples, one_step);
  one_step.proximal_mu = 10;
  (void)pulled.train(kSamples, one_step);
  CHECK(at::equal(pulled.client().parameters().values(), plain.client().parameters().values()));

  const support::TemporaryFolder folder;
  int steps = 0;
  (void)first.train(kSamples, options, {.checkpoints = checkpoints_in(folder / "c"), .interrupted = [&] {
                                          return ++steps == 5;
                                        }});
  (void)resumed.train(kSamples, options, {.checkpoints = checkpoints_in(folder / "c"), .resume = true});
  CHECK(at::equal(resumed.client().parameters().values(), held.client().parameters().values()));

  // The gradient of mu / 2 * ||values - anchor||^2.
  auto& parameters = held.client().parameters();
  parameters.clear_gradients();
  parameters.pull_towards(start, 0.5);
  const at::Tensor expected = parameters.values().sub(start).mul(0.5);
  CHECK(parameters.gradients().sub(expected).norm().item<double>() < 1e-6 * expected.norm().item<double>());
}

TEST_CASE("TrainingLoop: a batch in several passes gives the same step, with dropout and accumulation") {
  TrainingOptions options{.learning_rate = 5e-3,
                          .max_steps = 1,
                          .batch_size = 8,
                          .gradient_accumulation = 2,
                          .residual_dropout = 0.2};
  std::vector<std::size_t> passes;
  std::vector<double> losses, norms;
  std::vector<at::Tensor> moments;
  for (const std::int64_t limit : {0, 100, 1}) {  // 1: each sample alone
    options.rows_per_pass = limit;
    auto t = tuner();
    std::size_t calls = 0;
    const auto count = [&](const PackedBatch& batch, std::int64_t scored, const Dropout& dropout) {
      ++calls;
      CHECK((limit != 100 || batch.ids.numel() <= limit));
      return t.client().trained().add_gradients(batch, scored, dropout);
    };
    const auto note = observe([&](const StepEvent& e) {
      losses.push_back(e.loss);
      norms.push_back(e.grad_norm);
    });
    TrainingLoop(t.client().parameters(), count, kSamples, options, {.observers = {note}}).run();
    passes.push_back(calls);
    moments.push_back(t.client().parameters().first_moment().clone());
  }
  CHECK(passes[0] == 2);
  CHECK(passes[1] > 4);
  CHECK(passes[2] == 16);
  for (const std::size_t i : {1, 2}) {
    CHECK(losses[i] == doctest::Approx(losses[0]).epsilon(1e-6));
    CHECK(norms[i] == doctest::Approx(norms[0]).epsilon(1e-5));
    CHECK(moments[i].sub(moments[0]).norm().item<double>() < 1e-5 * moments[0].norm().item<double>());
  }
}

TEST_CASE("TrainingLoop: a checkpoint of another run, or a broken one, is refused with one sentence") {
  support::TemporaryFolder folder;
  const auto hooks = [&] {
    return TrainingHooks{.checkpoints = checkpoints_in(folder / "checkpoints"), .resume = true};
  };
  auto options = kOptions;
  options.save_steps = 4;
  tuner().train(kSamples, options, hooks());
  int kept = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder / "checkpoints"))
    kept += entry.is_directory() ? 1 : 0;
  CHECK(kept == 2);  // the newest two of steps 4, 8, 12

  auto other = options;
  other.learning_rate = 1;
  auto t = tuner();
  const at::Tensor before = t.client().parameters().values().clone();
  const auto message = support::message_of<ArgumentError>([&] { t.train(kSamples, other, hooks()); });
  CHECK(message.ends_with(
      "step-00000012: its run had learning_rate = 0.005, this one has 1; give the same, or start "
      "anew with --force"));
  CHECK_THROWS_AS(t.train(toy::samples(21), options, hooks()), ArgumentError);  // other data

  const auto file = folder / "checkpoints" / "step-00000012" / "state.safetensors";
  const auto bytes = support::read_file(file);
  support::write_file(file, std::string_view(bytes).substr(0, bytes.size() - 4));
  CHECK_THROWS_AS(t.train(kSamples, options, hooks()), ProtocolError);
  support::write_file(folder / "checkpoints" / "step-00000012" / "state.json", "{}");
  CHECK_THROWS_AS(t.train(kSamples, options, hooks()), ProtocolError);
  CHECK(at::equal(t.client().parameters().values(), before));
}

TEST_CASE("TrainingLoop: the best evaluation's parameters are kept, and patience stops a run") {
  auto options = kOptions;
  options.eval_steps = 2;
  options.keep_best = true;
  std::vector<at::Tensor> at_evaluation;
  auto t = tuner();
  auto evaluate = scripted({3, 1, 2, 5, 4, 4, 4});
  const auto summary = t.train(kSamples, options, {.evaluate = [&] {
                                 at_evaluation.push_back(t.client().parameters().values().clone());
                                 return evaluate();
                               }});
  CHECK(summary.best_step == 4);
  CHECK(at_evaluation.size() == 7);
  CHECK(at::equal(t.client().parameters().values(), at_evaluation[1]));

  options.early_stopping_patience = 2;
  std::vector<bool> best;
  auto u = tuner();
  const auto stopped =
      u.train(kSamples, options,
              {.observers = {observe([&](const EvaluationEvent& e) { best.push_back(e.best); })},
               .evaluate = scripted({3, 1, 2, 5, 0})});
  CHECK(stopped.stopped_early);
  CHECK(stopped.steps == 8);
  CHECK(best == std::vector<bool>{true, true, false, false});

  options.metric = Metric::kAccuracy;  // scripted to fall as the loss rises
  auto v = tuner();
  CHECK(v.train(kSamples, options, {.evaluate = scripted({3, 1, 2, 5, 0})}).best_step == 4);
  CHECK_THROWS_AS(tuner().train(kSamples, options), ArgumentError);  // nothing evaluates
}

TEST_CASE("TrainingLoop: a step with NaN is not applied and is reported; too many in a row end the run") {
  auto t = tuner();
  auto& parameters = t.client().parameters();
  std::int64_t calls = 0;
  std::vector<std::int64_t> bad_from{2, 3};
  const auto poisoned = [&](const PackedBatch& batch, std::int64_t scored, const Dropout& dropout) {
    const double loss = t.client().trained().add_gradients(batch, scored, dropout);
    ++calls;
    if (calls == 2) return std::numeric_limits<double>::quiet_NaN();
    if (calls >= 3)
      at::Tensor(parameters.gradients()).select(0, 0).fill_(std::numeric_limits<float>::infinity());
    return loss;
  };
  std::vector<BadStepEvent> bad;
  std::vector<at::Tensor> values;
  const auto note = observe([&](const BadStepEvent& e) {
    bad.push_back(e);
    values.push_back(parameters.values().clone());
  });
  auto options = kOptions;
  options.shuffle = false;
  options.max_bad_steps = 3;
  TrainingLoop loop(parameters, poisoned, kSamples, options, {.observers = {note}});
  const auto message = support::message_of<NumericError>([&] { loop.run(); });
  CHECK(message.starts_with("3 steps in a row, up to step 4, had a loss or gradient that is not finite"));
  REQUIRE(bad.size() == 3);
  CHECK(bad[0].samples == std::vector<std::int64_t>{3, 4, 5});
  CHECK(std::isnan(bad[0].loss));
  CHECK(std::isinf(bad[1].grad_norm));
  for (const auto& v : values) CHECK(at::equal(v, values.front()));
  CHECK(values.front().isfinite().all().item<bool>());
}

TEST_CASE("TrainingLoop: options out of range are named with their value") {
  const auto message = [](const TrainingOptions& options) {
    return support::message_of<ArgumentError>([&] { tuner().train(kSamples, options); });
  };
  CHECK(message({.learning_rate = -1}) == "learning_rate is -1, but it must be at least 0 and below inf");
  CHECK(message({.learning_rate = std::nan("")}) ==
        "learning_rate is nan, but it must be at least 0 and below inf");
  CHECK(message({.num_epochs = 0}) == "num_epochs is 0, but it must be above 0 and at most 1e6");
  CHECK(message({.batch_size = 0}) == "batch_size is 0, but it must be at least 1");
  CHECK(message({.residual_dropout = 1}) == "residual_dropout is 1, but it must be at least 0 and below 1");
  CHECK_THROWS_WITH_AS(tuner().train({}, {}), "there are no samples to train on", ArgumentError);
}

TEST_CASE("FlatParameters: decay touches matrices only, clipping acts on the norm of all") {
  for (const double decay : {0.0, 0.5}) {
    auto t = tuner();
    auto& p = t.client().parameters();
    const at::Tensor before = p.values().clone();
    const auto decayed = p.layout().decayed();
    CHECK(p.layout().size() - decayed == 2 * 64);  // two biases
    p.clear_gradients();
    const auto report = p.step(0.1, {.weight_decay = decay});
    CHECK(report.applied);
    const at::Tensor expected = before.narrow(0, 0, decayed).mul(1 - 0.1 * decay);
    CHECK((p.values().narrow(0, 0, decayed) - expected).abs().max().item<float>() < 1e-6);
    CHECK(at::equal(p.values().narrow(0, decayed, 128), before.narrow(0, decayed, 128)));
  }
}

}  // namespace training_loop_test
