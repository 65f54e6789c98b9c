// What is frozen below the first trained block is computed once a sample.
#include "offsite/trainer/prefix_cache.hpp"

#include <ATen/ops/equal.h>
#include <ATen/ops/stack.h>

#include <filesystem>
#include <string>
#include <vector>

#include "models/conformance.hpp"
#include "models/small_llama.hpp"
#include "offsite/models/llama.hpp"
#include "offsite/trainer/offsite_tuning.hpp"
#include "offsite/trainer/prefix_files.hpp"
#include "offsite/trainer/training_checkpoint.hpp"
#include "trainer/golden_training.hpp"
#include "trainer/own_model.hpp"
#include "trainer/toy_data.hpp"

#include "support/test.hpp"

namespace prefix_cache_test {

using namespace offsite;

namespace {

constexpr std::int64_t kLarge = 1 << 24;
const std::vector<Sample> kSamples = toy::samples(60);
const OffsiteOptions kTop{.bottom_blocks = 0, .top_blocks = 1, .emulator_blocks = 2};

OffsiteTuning<own::Model> tuner(const OffsiteOptions& cut = kTop) {
  return OffsiteTuning<own::Model>{own::random_model(4, 1), cut};
}

TrainingOptions options(std::int64_t cache, std::int64_t epochs = 3) {
  return {.learning_rate = 5e-3,
          .num_epochs = static_cast<double>(epochs),
          .batch_size = 5,
          .residual_dropout = 0.1,
          .logging_steps = 4,
          .prefix_cache = cache};
}

std::int64_t rows_of(std::span<const Sample> samples) {
  std::int64_t rows = 0;
  for (const auto& sample : samples) rows += sample.rows();
  return rows;
}

const at::Tensor& values(OffsiteTuning<own::Model>& t) { return t.client().parameters().values(); }

std::int64_t computed(OffsiteTuning<own::Model>& t) {
  return t.client().trained().prefix_cache()->rows_computed();
}

template <class Model>
void check_same_training(const Model& model, const std::vector<Sample>& samples, at::ScalarType dtype) {
  auto cut = kTop;
  cut.dtype = dtype;
  OffsiteTuning without{model, cut}, with{model, cut};
  const auto expected = without.train(samples, options(0)), seen = with.train(samples, options(kLarge));
  REQUIRE(seen.losses.size() == expected.losses.size());
  const double tolerance = dtype == at::kFloat ? 1e-4 : 0.03;
  for (std::size_t i = 0; i < seen.losses.size(); ++i)
    CHECK(seen.losses[i] == doctest::Approx(expected.losses[i]).epsilon(tolerance));
  CHECK(without.client().trained().prefix_cache() == nullptr);
  CHECK(with.client().trained().prefix_cache()->rows_computed() == rows_of(samples));
}

}  // namespace

TEST_CASE("PrefixCache: training sees the rows it would compute, and computes each once") {
  check_same_training(own::random_model(4, 1), kSamples, at::kFloat);
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    check_same_training(golden_training::model(), golden_training::samples(), dtype);
    check_same_training(conformance::small<Llama>(conformance::small_llama()), toy::samples(12), dtype);
  }
}

TEST_CASE(
    "PrefixCache: rows are those of the sample's group, whatever batch asks, in the order of the batch") {
  auto samples = toy::samples(40);
  samples[7].tokens = samples[3].tokens;  // known by tokens, not by number
  samples[7].scored_from = samples[3].scored_from;
  std::vector<std::int64_t> calls;
  const auto compute = [&](const at::Tensor& ids, const Sequences& s) {
    calls.push_back(ids.numel());
    return at::stack({ids.to(at::kFloat), s.positions.to(at::kFloat)}, 1);
  };
  PrefixCache all(samples, 8, kLarge), some(samples, 8, 8 * 600);
  CHECK(all.kept() == 40);
  CHECK(some.kept() > 0);
  CHECK(some.kept() < 40);
  CHECK(some.size() <= 8 * 600);
  CHECK(PrefixCache(samples, 8, 64).kept() == 0);
  for (const std::vector<std::int64_t>& which :
       {std::vector<std::int64_t>{39, 0, 7, 21}, {3}, {21, 39, 22, 2}})
    for (auto* cache : {&all, &some}) {
      const auto batch = pack(samples, which);
      CHECK(at::equal(cache->rows(batch.ids, batch.sequences, compute), compute(batch.ids, batch.sequences)));
    }
  const auto unknown = toy::samples(41);
  const auto batch = pack(unknown, std::vector<std::int64_t>{40, 1});
  CHECK(at::equal(all.rows(batch.ids, batch.sequences, compute), compute(batch.ids, batch.sequences)));
  calls.clear();
  (void)all.rows(batch.ids, batch.sequences, compute);
  CHECK(calls == std::vector<std::int64_t>{unknown[40].rows()});
  CHECK(all.serves(samples, kLarge));
  CHECK_FALSE(all.serves(unknown, kLarge));
  CHECK_THROWS_AS(PrefixCache(std::vector<Sample>(1), 8, kLarge), ArgumentError);
}

TEST_CASE("PrefixCache: a run repeats bit for bit, and so does one that was interrupted, within any limit") {
  for (const std::int64_t limit : {kLarge, std::int64_t{128 * 700}}) {
    auto whole = tuner(), again = tuner();
    (void)whole.train(kSamples, options(limit));
    (void)again.train(kSamples, options(limit));
    CHECK(at::equal(values(whole), values(again)));
    CHECK((computed(whole) == rows_of(kSamples)) == (limit == kLarge));

    for (const int stop : {5, 13}) {
      const support::TemporaryFolder folder;
      auto first = tuner(), second = tuner();
      int steps = 0;
      (void)first.train(
          kSamples, options(limit),
          {.checkpoints = checkpoints_in(folder / "c"), .interrupted = [&] { return ++steps == stop; }});
      const TrainingHooks rest{.checkpoints = checkpoints_in(folder / "c"), .resume = true};
      CHECK_THROWS_AS(tuner().train(kSamples, options(limit / 2), rest), ArgumentError);  // other bits
      (void)second.train(kSamples, options(limit), rest);
      CHECK(at::equal(values(second), values(whole)));
    }
  }
}

TEST_CASE("PrefixCache: a file serves later runs; one that is not theirs is computed anew") {
  const support::TemporaryFolder folder;
  const TrainingHooks hooks{.prefix_store = prefix_files_in(folder / "rows")};
  std::filesystem::path file;
  {
    auto first = tuner();
    (void)first.train(kSamples, options(kLarge), hooks);
    CHECK(computed(first) == rows_of(kSamples));
    for (const auto& entry : std::filesystem::directory_iterator(folder / "rows")) file = entry.path();
    CHECK(std::filesystem::file_size(file) == first.client().trained().prefix_cache()->size());
    auto beside = tuner();
    const auto message =
        support::message_of<ArgumentError>([&] { (void)beside.train(kSamples, options(kLarge), hooks); });
    CHECK(message.find("is in use by another run") != std::string::npos);
  }
  auto plain = tuner();
  (void)plain.train(kSamples, options(kLarge));
  const auto rows_of_next = [&] {
    auto next = tuner();
    (void)next.train(kSamples, options(kLarge), hooks);
    CHECK(at::equal(values(next), values(plain)));
    return computed(next);
  };
  const auto one_group = rows_of_next();
  CHECK(one_group <= 512);  // to compare
  CHECK(one_group > 0);

  auto bytes = support::read_file(file);
  const auto whole = bytes;
  bytes[bytes.size() - 5] = static_cast<char>(bytes[bytes.size() - 5] ^ 1);  // a broken group
  support::write_file(file, bytes);
  CHECK(rows_of_next() > one_group);
  CHECK(support::read_file(file) == whole);
  support::write_file(file, whole.substr(0, 100));
  CHECK(rows_of_next() == rows_of(kSamples));
  CHECK(support::read_file(file) == whole);

  auto other = OffsiteTuning<own::Model>{own::random_model(4, 2), kTop};
  (void)other.train(kSamples, options(kLarge), hooks);
  CHECK(computed(other) == rows_of(kSamples));  // by hash: in a file of its own
  std::filesystem::remove(file);
  std::filesystem::create_directory(file);
  CHECK_THROWS_AS(tuner().train(kSamples, options(kLarge), hooks), ArgumentError);
}

TEST_CASE(
    "PrefixCache: rows that other code computed are found out by the first group, and all are forgotten") {
  const auto samples = toy::samples(60);
  std::vector<std::shared_ptr<std::byte>> memory;
  const auto keep = [&](std::size_t size) {
    if (memory.empty()) memory.push_back(PrefixCache::zeroed(size));
    return memory.front();
  };
  const auto times = [](double factor) {
    return [factor](const at::Tensor& ids, const Sequences&) {
      return ids.to(at::kFloat).mul(factor).unsqueeze(1);
    };
  };
  const auto batch = pack(samples);
  PrefixCache old(samples, 4, kLarge, keep);
  (void)old.rows(batch.ids, batch.sequences, times(2));
  PrefixCache now(samples, 4, kLarge, keep);
  CHECK(at::equal(now.rows(batch.ids, batch.sequences, times(3)), times(3)(batch.ids, batch.sequences)));
  CHECK(now.rows_computed() == rows_of(samples));
}

TEST_CASE("PrefixCache: kept from round to round; where the first block trains there is nothing to keep") {
  auto t = tuner();
  (void)t.train(kSamples, options(kLarge, 1));
  const auto rows = computed(t);
  (void)t.train(kSamples, options(kLarge, 1));
  CHECK(computed(t) == rows);

  std::vector<std::string> warnings;
  const TrainingHooks hooks{
      .observers = {observe([&](const WarningEvent& e) { warnings.push_back(e.text); })}};
  auto ends = tuner({.bottom_blocks = 1, .top_blocks = 1, .emulator_blocks = 2});
  (void)ends.train(kSamples, options(kLarge, 1), hooks);
  CHECK(warnings ==
        std::vector<std::string>{"nothing below the first trained block is cached: the first block "
                                 "trains, or what comes before it"});
  (void)tuner().train(kSamples, options(64, 1), hooks);
  CHECK(warnings.back().ends_with("not even the first samples fit into prefix_cache"));
  CHECK_THROWS_AS(tuner().train(kSamples, options(-1)), ArgumentError);
}

}  // namespace prefix_cache_test
