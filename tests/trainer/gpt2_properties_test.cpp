// What must hold of training GPT-2 whatever the numbers are: the properties at the end of the project's rules.
#include <ATen/ops/allclose.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>

#include <array>
#include <functional>
#include <limits>

#include "models/conformance.hpp"
#include "offsite/blocks/cast.hpp"
#include "offsite/blocks/run_blocks.hpp"
#include "offsite/data/packed_batch.hpp"
#include "offsite/trainer/full_fine_tuning.hpp"
#include "support/tensors.hpp"
#include "trainer/golden_training.hpp"

namespace gpt2_properties_test {

using namespace offsite;
using conformance::copy_of, conformance::same_bits;
using golden_training::cut, golden_training::model, golden_training::samples, golden_training::Threads;
using support::relative_error;

namespace {

using Access = BlockAccess<Gpt2>;

const std::vector<std::int64_t> kAll{0, 1, 2, 3, 4, 5};

at::Tensor logits(Gpt2& m, const PackedBatch& batch, bool scored_only = true) {
  const at::Tensor h = run_blocks<Access>(m, m.embed(batch.ids, batch.sequences), batch.sequences,
                                          scored_only ? batch.scored_rows : at::Tensor{});
  return m.logits(h);
}

/// Calls f(name, tensor of a, tensor of b) for every parameter of two models of the same blocks.
template <class F>
void compare(Gpt2& a, Gpt2& b, std::span<const std::int64_t> numbers, F&& f) {
  std::vector<at::Tensor> first;
  visit_parameters<Access>(a, numbers, [&](const std::string&, at::Tensor& t) { first.push_back(t); });
  std::size_t next = 0;
  visit_parameters<Access>(b, numbers,
                           [&](const std::string& name, at::Tensor& t) { f(name, first.at(next++), t); });
  CHECK(next == first.size());
}

/// A client's values before and after some steps.
struct Trained {
  ParameterLayout layout;
  at::Tensor before, values;
  TrainingSummary summary;

  /// Without the biases of keys: their true gradient is zero, so AdamW makes steps of rounding errors there.
  [[nodiscard]] at::Tensor change() const {
    const at::Tensor difference = values.sub(before);
    for (const auto& tensor : layout.tensors())
      if (tensor.name.ends_with("c_attn.bias"))
        difference.narrow(0, tensor.offset + tensor.numel / 3, tensor.numel / 3).zero_();
    return difference;
  }
};
const TrainingOptions kOptions{.learning_rate = 1e-3,
                               .max_steps = 6,
                               .batch_size = 6,
                               .schedule = Schedule::kConstant,
                               .shuffle = false,
                               .logging_steps = 1};

Trained train(const Gpt2& m, const std::vector<Sample>& data, const TrainingOptions& options,
              const OffsiteOptions& split = cut()) {
  OffsiteTuning tuner{m, split};
  const auto& parameters = tuner.client().parameters();
  const at::Tensor before = parameters.values().clone();
  auto summary = tuner.train(data, options);
  return {parameters.layout(), before, parameters.values().clone(), std::move(summary)};
}

/// Gradients of one batch with every parameter trained, or the ends only.
TrainedModel<Gpt2> trained_model(const Gpt2& m, const TrainedParts& parts) {
  return {m, kAll, parts, at::kFloat, WholeBlocks{}};
}

}  // namespace

TEST_CASE("Gpt2: with the whole middle kept the client's logits are the full model's, bit for bit") {
  for (const auto dtype : {at::kFloat, at::kBFloat16})
    for (const bool by_index : {false, true}) {  // attention scales that depend on the block's number
      Gpt2 m = model();
      for (auto& block : m.blocks)
        if (by_index) block.attention.options.scale /= static_cast<double>(block.index + 1);
      OffsiteTuning tuner{m, {.bottom_blocks = 1, .top_blocks = 1, .emulator_blocks = 4, .dtype = dtype}};
      Gpt2 full = cast_model<Access>(m, dtype);
      const auto batch = pack(samples());
      CHECK(at::equal(logits(tuner.client().model(), batch), logits(full, batch)));
      OffsiteTuning less{m, {.bottom_blocks = 1, .top_blocks = 1, .emulator_blocks = 3, .dtype = dtype}};
      CHECK_FALSE(at::equal(logits(less.client().model(), batch), logits(full, batch)));
    }
}

TEST_CASE(
    "Gpt2: plugging in untrained adapters leaves every bit, in every dtype of checkpoint and computing") {
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kHalf})
    for (const auto compute : {at::kFloat, at::kBFloat16}) {
      INFO(c10::toString(dtype), " computed in ", c10::toString(compute));
      Gpt2 m = copy_of(cast_model<Access>(model(), dtype));
      for (auto& block : m.blocks)
        Access::visit(block, [](std::string_view, at::Tensor& t) { t.view(-1)[0] = -0.0; });
      Gpt2 before = copy_of(m);
      OffsiteTuning tuner{m, cut(compute)};
      auto plugged = tuner.plug_in();
      CHECK(plugged.tensors_changed == 0);
      CHECK(same_bits(plugged.model, before));
      tuner.train(samples(), {.learning_rate = 0, .max_steps = 2});  // through the optimiser, at rate 0
      plugged = tuner.plug_in();
      CHECK(plugged.tensors_changed == 0);
      CHECK(same_bits(plugged.model, before));

      tuner.train(samples(), {.learning_rate = 1e-2, .max_steps = 2});
      plugged = tuner.plug_in();
      CHECK(plugged.tensors_changed == 24);
      CHECK(same_bits(m, before));  // the owner's tensors are never written to
      for (const auto i : {1u, 2u, 3u, 4u})
        Access::visit(
            plugged.model.blocks[i], [&, seen = std::size_t{0}](std::string_view, at::Tensor& t) mutable {
              std::vector<at::Tensor> original;
              Access::visit(m.blocks[i], [&](std::string_view, at::Tensor& o) { original.push_back(o); });
              CHECK(t.is_same(original.at(seen++)));
            });
    }
}

TEST_CASE("Gpt2: frozen tensors stay as they are, in float32 the owner's own memory") {
  const Gpt2 m = model();
  OffsiteTuning tuner{m, cut()};
  const auto kept = tuner.plan().kept();
  CHECK(kept == std::vector<std::int64_t>{0, 1, 4, 5});
  Gpt2 selected = Access::select(m, kept), before = copy_of(selected);
  tuner.train(samples(), kOptions);
  std::int64_t frozen = 0;
  compare(tuner.client().model(), selected, kept,
          [&](const std::string& name, const auto& ours, const auto& owners) {
            INFO(name);
            const bool trains = name.starts_with("transformer.h.0.") || name.starts_with("transformer.h.5.");
            CHECK((ours.data_ptr() == owners.data_ptr()) != trains);
            CHECK(ours.grad().defined() == trains);
            frozen += trains ? 0 : 1;
          });
  CHECK(frozen == 2 * 12 + 4);
  compare(selected, before, kept,
          [](const std::string&, const auto& x, const auto& y) { CHECK(same_bits(x, y)); });
}

TEST_CASE("Gpt2: every gradient of full fine-tuning is autograd's, at the tied weight the sum of both uses") {
  const auto data = samples();
  const auto batch = pack(data);
  Gpt2 reference = copy_of(model());
  visit_parameters<Access>(reference, kAll,
                           [](const std::string&, at::Tensor& t) { t.set_requires_grad(true); });
  at::Tensor h = reference.embed(batch.ids, batch.sequences);
  for (auto& block : reference.blocks) h = Access::forward(block, h, batch.sequences);
  const at::Tensor loss =
      ops::log_probabilities_reference(reference.logits(h.index_select(0, batch.scored_rows)), batch.targets)
          .mean()
          .neg();
  loss.backward();

  const auto count = batch.targets.numel();
  auto trained = trained_model(model(), {kAll, true});
  const double sum = trained.add_gradients(batch, count, {});
  CHECK(sum / static_cast<double>(count) == doctest::Approx(loss.item<double>()).epsilon(1e-6));
  double most = 0;
  compare(reference, trained.model(), kAll,
          [&](const std::string& name, const auto& theirs, const auto& ours) {
            INFO(name);
            const auto parts = [&](const at::Tensor& g) {  // keys' biases have a gradient of zero
              return name.ends_with("c_attn.bias") ? at::cat({g.narrow(0, 0, 24), g.narrow(0, 48, 24)}) : g;
            };
            const double error = relative_error(parts(ours.grad()), parts(theirs.grad()));
            most = std::max(most, error);
            CHECK(error < 1e-5);
          });
  CHECK(most > 0);

  // Neither use alone gives that sum: the head's gradient reaches rows that no input token has.
  const at::Tensor tied = trained.model().wte.grad();
  at::Tensor seen = at::zeros({97}, at::kBool);
  seen.index_put_({batch.ids}, at::full({}, true));
  CHECK(support::magnitude(tied.index({seen.logical_not()})) > 0);
  CHECK(trained.parameters().layout().find("lm_head.weight") == nullptr);
}

TEST_CASE("Gpt2: packed losses are those of the sequences alone, and micro-batches add up to their union") {
  const auto data = samples();
  const auto batch = pack(data);
  const auto count = batch.targets.numel();
  for (const bool shared : {false, true}) {
    auto packed = trained_model(model(), {shared ? kAll : std::vector<std::int64_t>{0, 5}, shared}),
         alone = trained_model(model(), {shared ? kAll : std::vector<std::int64_t>{0, 5}, shared}),
         parts = trained_model(model(), {shared ? kAll : std::vector<std::int64_t>{0, 5}, shared});
    const double loss = packed.add_gradients(batch, count, {});
    double sum = 0, of_parts = 0;
    for (std::int64_t i = 0; i < std::ssize(data); ++i)
      sum += alone.add_gradients(pack(data, std::array{i}), count, {});
    for (const auto& part : {std::vector<std::int64_t>{0, 1, 2, 3, 4}, {5}, {6, 7, 8, 9, 10, 11, 12}})
      of_parts += parts.add_gradients(pack(data, part), count, {});
    CHECK(std::abs(sum - loss) < 1e-6 * loss);
    CHECK(std::abs(of_parts - loss) < 1e-6 * loss);
    CHECK(relative_error(alone.parameters().gradients(), packed.parameters().gradients()) < 1e-6);
    CHECK(relative_error(parts.parameters().gradients(), packed.parameters().gradients()) < 1e-6);
  }
}

TEST_CASE("Gpt2: steps over micro-batches of unlike numbers of scored tokens equal steps over their union") {
  auto data = samples();
  auto union_options = kOptions, parts = kOptions;
  parts.batch_size = 2;
  parts.gradient_accumulation = 3;
  const auto whole = train(model(), data, union_options), split = train(model(), data, parts);
  CHECK(relative_error(split.change(), whole.change()) < 1e-3);
  for (std::size_t i = 0; i < whole.summary.losses.size(); ++i)
    CHECK(split.summary.losses[i] == doctest::Approx(whole.summary.losses[i]).epsilon(1e-6));
}

TEST_CASE("Gpt2: scored rows alone give what all rows give") {
  Gpt2 m = model();
  const auto batch = pack(samples());
  const at::Tensor some = logits(m, batch), all = logits(m, batch, false).index_select(0, batch.scored_rows);
  CHECK(batch.scored_rows.numel() < batch.ids.numel());
  CHECK(relative_error(some, all) < 1e-6);
}

namespace {

/// Gpt2's accessor, noting what it is asked for.
struct Noted : Access {
  struct Call {
    std::int64_t block;
    bool save, some_rows, dropout;
    bool operator==(const Call&) const = default;
  };
  static inline std::vector<Call> forwards;
  static inline std::vector<std::pair<std::int64_t, bool>>
      backwards;  // block, whether its input's gradient is wanted
  using Access::forward;

  static at::Tensor forward(Gpt2Block& b, const at::Tensor& h, const Sequences& s, const BlockPass& pass,
                            Saved& saved) {
    forwards.push_back({b.index, pass.save, pass.rows.defined(), pass.dropout.active()});
    return Access::forward(b, h, s, pass, saved);
  }
  static at::Tensor backward(Gpt2Block& b, const at::Tensor& dy, const Sequences& s, Saved& saved,
                             bool need) {
    backwards.emplace_back(b.index, need);
    return Access::backward(b, dy, s, saved, need);
  }
};

}  // namespace

TEST_CASE(
    "BlockTape: below the first trained block nothing is recorded or propagated; frozen blocks drop "
    "nothing") {
  const auto run = [](const std::vector<std::int64_t>& places, bool shared) {
    Noted::forwards.clear();
    Noted::backwards.clear();
    TrainedModel<Gpt2, Noted> trained(model(), kAll, {places, shared}, at::kFloat, WholeBlocks{});
    const auto batch = pack(samples());
    trained.add_gradients(batch, batch.targets.numel(), {.residual = 0.1, .key = 1});
  };
  run({3, 5}, false);
  CHECK((Noted::forwards == std::vector<Noted::Call>{{0, false, false, false},
                                                     {1, false, false, false},
                                                     {2, false, false, false},
                                                     {3, true, false, true},
                                                     {4, true, false, false},
                                                     {5, true, true, true}}));
  CHECK((Noted::backwards == std::vector<std::pair<std::int64_t, bool>>{{5, true}, {4, true}, {3, false}}));
  run({0}, false);
  CHECK((Noted::forwards.front() == Noted::Call{0, true, false, true}));
  CHECK(Noted::backwards.size() == 6);
  CHECK((Noted::backwards.back() == std::pair<std::int64_t, bool>{0, false}));
  run(kAll, true);
  CHECK((Noted::backwards.back() == std::pair<std::int64_t, bool>{0, true}));
}

TEST_CASE("Gpt2: dropout repeats from its seed whatever the packing, and is no part of evaluation") {
  auto options = kOptions;
  options.attention_dropout = 0.2;
  options.residual_dropout = 0.1;
  const auto data = samples();
  const auto first = train(model(), data, options), second = train(model(), data, options),
             without = train(model(), data, kOptions);
  CHECK(at::equal(first.values, second.values));
  CHECK(relative_error(first.change(), without.change()) > 0.05);
  for (const auto member : {&TrainingOptions::attention_dropout, &TrainingOptions::residual_dropout}) {
    auto one = kOptions;  // each of the two places matters
    one.*member = 0.2;
    CHECK(relative_error(train(model(), data, one).change(), without.change()) > 0.02);
  }
  auto other = options;
  other.seed = 43;
  CHECK(relative_error(train(model(), data, other).change(), first.change()) > 0.05);

  auto parts = options;
  parts.batch_size = 2;
  parts.gradient_accumulation = 3;
  const auto split = train(model(), data, parts);
  CHECK(relative_error(split.change(), first.change()) < 1e-3);
  CHECK(split.summary.losses.back() == doctest::Approx(first.summary.losses.back()).epsilon(1e-6));

  OffsiteTuning tuner{model(), cut()};
  tuner.train(data, options);
  Gpt2& m = tuner.client().model();
  const auto batch = pack(data);
  const at::Tensor evaluated = logits(m, batch, false);
  at::Tensor h = m.embed(batch.ids, batch.sequences);
  for (auto& block : m.blocks) h = Access::forward(block, h, batch.sequences);
  CHECK(relative_error(evaluated, m.logits(h)) < 2e-6);
  CHECK(at::equal(logits(m, batch, false), evaluated));
}

TEST_CASE("Gpt2: a run repeats bit for bit on as many threads, and to rounding on another number") {
  // Large enough that kernels divide their work. Our kernels give each row to one thread, so they compute the same on
  // any number; LibTorch divides some sums and products by the number of threads, so there the order of additions
  // differs. Measured: gradients differ by 1e-8, what a few steps change by 1e-6 (key biases left out).
  Gpt2Config config;
  config.n_layer = 3;
  config.n_embd = 96;
  config.n_head = 4;
  config.vocab_size = 600;
  config.n_positions = 128;
  const Gpt2 m = Gpt2::random(config, 5);
  std::vector<Sample> data;
  RandomStream random(6);
  for (std::int64_t i = 0; i < 5; ++i) {
    Sample sample{{}, 8, i};
    const auto length = 20 + random.below(100);
    while (sample.tokens.size() < length)
      sample.tokens.push_back(static_cast<std::int32_t>(random.below(600)));
    data.push_back(std::move(sample));
  }
  auto options = kOptions;
  options.max_steps = 2;
  options.residual_dropout = options.attention_dropout = 0.1;
  std::vector<Trained> runs;
  std::vector<at::Tensor> gradients;
  for (const int threads : {1, 2, 1, 2}) {
    const Threads set(threads);
    runs.push_back(train(m, data, options, {.bottom_blocks = 1, .top_blocks = 1, .emulator_blocks = 1}));
    const auto batch = pack(data);
    TrainedModel<Gpt2> trained(m, {0, 1, 2}, {{0, 1, 2}, true}, at::kFloat, WholeBlocks{});
    trained.add_gradients(batch, batch.targets.numel(), {.attention = 0.1, .residual = 0.1, .key = 3});
    gradients.push_back(trained.parameters().gradients().clone());
  }
  CHECK(at::equal(runs[0].values, runs[2].values));
  CHECK(at::equal(runs[1].values, runs[3].values));
  CHECK(at::equal(gradients[0], gradients[2]));
  CHECK(at::equal(gradients[1], gradients[3]));
  CHECK(relative_error(gradients[1], gradients[0]) < 1e-6);
  CHECK(relative_error(runs[1].change(), runs[0].change()) < 1e-5);
  for (std::size_t i = 0; i < runs[0].summary.losses.size(); ++i)
    CHECK(runs[1].summary.losses[i] == doctest::Approx(runs[0].summary.losses[i]).epsilon(1e-6));
}

TEST_CASE("Gpt2: in bfloat16 training goes as in float32, from the same float32 values") {
  auto options = kOptions;
  options.max_steps = 60;
  options.batch_size = 13;
  const auto data = samples();
  const auto exact = train(model(), data, options),
             narrow = train(model(), data, options, cut(at::kBFloat16));
  CHECK(at::equal(exact.before, narrow.before));
  const auto& losses = narrow.summary.losses;
  CHECK(losses.back() < 0.9 * losses.front());
  for (std::size_t i = 0; i < losses.size(); ++i)
    CHECK(losses[i] == doctest::Approx(exact.summary.losses[i]).epsilon(0.02));
  CHECK(relative_error(narrow.change(), exact.change()) < 0.1);

  auto shared = options;
  shared.max_steps = 20;
  FullFineTuning full{model()}, narrow_full{model(), at::kBFloat16};
  const auto a = full.train(data, shared).losses, b = narrow_full.train(data, shared).losses;
  CHECK(b.back() < 0.9 * b.front());
  CHECK(b.back() == doctest::Approx(a.back()).epsilon(0.02));
  Gpt2 result = narrow_full.result();
  CHECK((result.wte.scalar_type() == at::kFloat));  // as the model was given
  CHECK(at::equal(result.wte, full.result().wte) == false);
}

TEST_CASE("Gpt2: NaN or infinity in a weight ends training, and no value moves") {
  const float nan = std::numeric_limits<float>::quiet_NaN(),
              infinity = std::numeric_limits<float>::infinity();
  for (const float bad : {nan, infinity})
    for (const std::size_t block : {0u, 4u, 5u})  // trained, frozen, and trained on scored rows only
      for (const auto dtype : {at::kFloat, at::kBFloat16}) {
        INFO(bad, " in block ", block);
        Gpt2 m = copy_of(model());
        m.blocks[block].mlp.out.weight[3][4] = bad;
        OffsiteTuning tuner{m, cut(dtype)};
        const at::Tensor before = tuner.client().parameters().values().clone();
        auto options = kOptions;
        options.max_bad_steps = 2;
        const auto message = support::message_of<NumericError>([&] { tuner.train(samples(), options); });
        CHECK(
            message.starts_with("2 steps in a row, up to step 2, had a loss or gradient that is not finite"));
        CHECK(same_bits(tuner.client().parameters().values(), before));
      }
}

}  // namespace gpt2_properties_test
