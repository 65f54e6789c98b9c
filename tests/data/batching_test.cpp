#include "offsite/data/batching.hpp"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "support/test.hpp"

namespace batching_test {

using namespace offsite;

namespace {

std::vector<Sample> samples_of(const std::vector<std::int64_t>& rows) {
  std::vector<Sample> samples;
  for (const auto n : rows)
    samples.push_back({std::vector<std::int32_t>(static_cast<std::size_t>(n + 1)), n, 0});
  return samples;
}

/// Lengths spread as SciQ's: mostly around a hundred, a tenth of them without a supporting text.
std::vector<Sample> uneven_samples(std::int64_t count) {
  RandomStream random(7);
  std::vector<std::int64_t> rows;
  for (std::int64_t i = 0; i < count; ++i) {
    const bool bare = random.below(10) == 0;
    rows.push_back(
        static_cast<std::int64_t>(bare ? 18 + random.below(30) : 30 + random.below(90) + random.below(120)));
  }
  return samples_of(rows);
}

std::vector<std::int64_t> flattened(const std::vector<std::vector<std::int64_t>>& batches) {
  std::vector<std::int64_t> all;
  for (const auto& batch : batches) all.insert(all.end(), batch.begin(), batch.end());
  return all;
}

bool each_once(const std::vector<std::vector<std::int64_t>>& batches, std::size_t count) {
  auto all = flattened(batches);
  std::sort(all.begin(), all.end());
  std::vector<std::int64_t> wanted(count);
  std::iota(wanted.begin(), wanted.end(), 0);
  return all == wanted;
}

std::int64_t rows_of(const std::vector<Sample>& samples, const std::vector<std::int64_t>& batch) {
  std::int64_t rows = 0;
  for (const auto index : batch) rows += samples[static_cast<std::size_t>(index)].rows();
  return rows;
}

}  // namespace

TEST_CASE("plan_epoch: groups of batch_size, the last one smaller") {
  const auto samples = samples_of(std::vector<std::int64_t>(10, 5));
  const auto plain = plan_epoch(samples, {.batch_size = 4, .shuffle = false}, 3);
  CHECK(plain == std::vector<std::vector<std::int64_t>>{{0, 1, 2, 3}, {4, 5, 6, 7}, {8, 9}});
  const auto shuffled = plan_epoch(samples, {.batch_size = 4}, 3);
  CHECK(shuffled.size() == 3);
  CHECK(shuffled.back().size() == 2);
  CHECK(each_once(shuffled, 10));
  CHECK(plan_epoch(samples, {.batch_size = std::int64_t{1} << 62}, 0).size() == 1);
  CHECK(plan_epoch({}, {}, 0).empty());
  CHECK(plan_epoch({}, {.batch_tokens = 5}, 0).empty());
}

TEST_CASE("plan_epoch: the order is fixed by seed and epoch, on every machine") {
  const auto samples = uneven_samples(100);
  for (const std::int64_t budget : {0, 400}) {
    const BatchOptions options{.batch_size = 3, .batch_tokens = budget, .seed = 5};
    const auto first = plan_epoch(samples, options, 0);
    CHECK(plan_epoch(samples, options, 0) == first);
    CHECK(plan_epoch(samples, options, 1) != first);
    auto other = options;
    other.seed = 6;
    CHECK(plan_epoch(samples, other, 0) != first);
  }
  const auto ten = samples_of(std::vector<std::int64_t>(10, 1));
  CHECK(flattened(plan_epoch(ten, {}, 0)) == permutation(10, derive_key(42, detail::kOrderPurpose, 0)));
}

TEST_CASE("plan_epoch: a budget of rows is kept, filled, and every sample comes once an epoch") {
  const auto samples = uneven_samples(3000);
  std::int64_t total = 0;
  for (const auto& sample : samples) total += sample.rows();
  for (const std::int64_t budget : {1024, 2048, 8192}) {
    for (std::int64_t epoch = 0; epoch < 3; ++epoch) {
      const auto batches = plan_epoch(samples, {.batch_tokens = budget}, epoch);
      CHECK(each_once(batches, samples.size()));
      for (const auto& batch : batches) CHECK(rows_of(samples, batch) <= budget);
      CHECK(static_cast<double>(total) /
                static_cast<double>(budget * static_cast<std::int64_t>(batches.size())) >
            0.97);
    }
  }
}

TEST_CASE("plan_epoch: a budget keeps the batches random") {
  // Neither long nor short samples may gather at one end of the epoch: the mean length of each quarter stays close.
  const auto samples = uneven_samples(4000);
  const auto order = flattened(plan_epoch(samples, {.batch_tokens = 1024}, 0));
  std::vector<double> means;
  for (std::size_t quarter = 0; quarter < 4; ++quarter) {
    const std::vector<std::int64_t> part(order.begin() + static_cast<std::ptrdiff_t>(quarter * 1000),
                                         order.begin() + static_cast<std::ptrdiff_t>((quarter + 1) * 1000));
    means.push_back(static_cast<double>(rows_of(samples, part)) / 1000);
  }
  CHECK(*std::max_element(means.begin(), means.end()) < 1.2 * *std::min_element(means.begin(), means.end()));
}

TEST_CASE("plan_epoch: a sample longer than the budget goes alone") {
  const auto samples = samples_of({5, 200, 5, 100, 5, 101});
  for (const bool shuffle : {false, true})
    for (std::int64_t epoch = 0; epoch < 20; ++epoch) {
      const auto batches = plan_epoch(samples, {.batch_tokens = 100, .shuffle = shuffle}, epoch);
      CHECK(each_once(batches, samples.size()));
      for (const auto& batch : batches) CHECK((batch.size() == 1 || rows_of(samples, batch) <= 100));
    }
  CHECK(plan_epoch(samples, {.batch_tokens = 100, .shuffle = false}, 0) ==
        std::vector<std::vector<std::int64_t>>{{0}, {1}, {2}, {3}, {4}, {5}});
  CHECK(plan_epoch(samples, {.batch_tokens = 205, .shuffle = false}, 0) ==
        std::vector<std::vector<std::int64_t>>{{0, 1}, {2, 3, 4}, {5}});
}

TEST_CASE("plan_epoch: refuses sizes that hold nothing") {
  const auto samples = samples_of({1});
  CHECK_THROWS_AS((void)plan_epoch(samples, {.batch_size = 0}, 0), ArgumentError);
  CHECK_THROWS_AS((void)plan_epoch(samples, {.batch_tokens = -1}, 0), ArgumentError);
  CHECK_THROWS_AS((void)plan_epoch(samples, {}, -1), ArgumentError);
}

TEST_CASE("passes_of: keeps the order, balances rows, respects the limit, cuts no sample") {
  const auto samples = samples_of({30, 10, 10, 30, 20, 100, 10});
  const std::vector<std::int64_t> batch{6, 0, 1, 3, 4, 2};  // 10, 30, 10, 30, 20 and 10 rows
  const auto passes = [&](const std::vector<std::int64_t>& of, std::int64_t limit) {
    std::vector<std::vector<std::int64_t>> all;
    for (const auto pass : passes_of(samples, of, limit)) all.emplace_back(pass.begin(), pass.end());
    return all;
  };
  using Passes = std::vector<std::vector<std::int64_t>>;
  CHECK(passes(batch, 0) == Passes{batch});
  CHECK(passes(batch, 110) == Passes{batch});
  CHECK(passes(batch, 109) == Passes{{6, 0, 1, 3}, {4, 2}});
  CHECK(passes(batch, 60) == Passes{{6, 0, 1}, {3, 4, 2}});
  CHECK(passes(batch, 1).size() == 6);
  CHECK(passes({1, 5, 2}, 20) == Passes{{1}, {5}, {2}});
}

}  // namespace batching_test
