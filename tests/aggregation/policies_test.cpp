#include <omp.h>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "offsite/aggregation/any_aggregation.hpp"
#include "offsite/aggregation/coordinate_wise.hpp"
#include "offsite/aggregation/fed_avg.hpp"
#include "offsite/aggregation/geometric_median.hpp"
#include "offsite/aggregation/krum.hpp"
#include "offsite/aggregation/norm_bounded.hpp"
#include "offsite/aggregation/server_optimizers.hpp"
#include "offsite/aggregation/sorted_tiles.hpp"
#include "offsite/aggregation/streaming.hpp"
#include "offsite/aggregation/weighted_mean.hpp"
#include "offsite/core/random.hpp"
#include "offsite/io/json.hpp"

#include "support/test.hpp"

namespace policies_test {

using namespace offsite;

namespace {

Eigen::VectorXf vector_of(const Json& json) {
  const auto values = json.get<std::vector<double>>();
  Eigen::VectorXf v(static_cast<Eigen::Index>(values.size()));
  for (std::size_t i = 0; i < values.size(); ++i)
    v[static_cast<Eigen::Index>(i)] = static_cast<float>(values[i]);
  return v;
}

/// Two rounds of the golden case.
template <AggregationPolicy Policy>
void check_golden(const std::string& name, const Policy& policy) {
  CAPTURE(name);
  const auto golden = read_json(support::golden("aggregation/policies.json"));
  Eigen::VectorXf x = vector_of(golden.at("start"));
  typename Policy::State state{};
  for (const auto& round : golden.at("rounds")) {
    std::vector<ClientUpdate> updates;
    for (const auto& delta : round)
      updates.push_back({vector_of(delta), golden.at("weights").at(updates.size()).get<double>()});
    x = policy.aggregate(x, updates, state);
  }
  const auto expected = vector_of(golden.at("results").at(name));
  CHECK((x - expected).norm() <= 2e-6f * expected.norm());
  // Flower's strategy gives the same wherever it follows the paper.
  if (const auto* theirs = golden.at("flower").find(name))
    CHECK((x - vector_of(*theirs)).norm() <= 2e-6f * expected.norm());
}

Eigen::VectorXf random_vector(Eigen::Index size, std::uint64_t key) {
  RandomStream random(key);
  Eigen::VectorXf v(size);
  for (auto& x : v) x = static_cast<float>(random.uniform() - 0.5);
  return v;
}

}  // namespace

TEST_CASE("aggregation policies: two rounds as the papers' formulas in NumPy, and Flower, give them") {
  check_golden("fedavg", FedAvg{});
  check_golden("fedavgm", FedAvgM{});
  check_golden("fedadam", FedAdam{});
  check_golden("fedyogi", FedYogi{});
  check_golden("fedadagrad", FedAdagrad{});
  check_golden("trimmed", TrimmedMean{});
  check_golden("median", CoordinateMedian{});
  check_golden("bounded", NormBounded<>{});
  check_golden("krum", MultiKrum{.faulty = 1, .keep = 1});
  check_golden("multikrum", MultiKrum{});
  check_golden("bulyan", Bulyan{});
  check_golden("geometric", GeometricMedian{});
}

TEST_CASE_TEMPLATE(
    "aggregation policies: zeros change nothing, the clients' order only rounding, bad updates are refused",
    Policy, FedAvgM, FedAdam, FedYogi, FedAdagrad, TrimmedMean, CoordinateMedian, NormBounded<>,
    NormBounded<CoordinateMedian>, MultiKrum, Bulyan, GeometricMedian) {
  const Policy policy{};
  const auto global = random_vector(5003, 1);
  std::vector<ClientUpdate> updates;
  for (std::uint64_t k = 0; k < 7; ++k)
    updates.push_back({random_vector(5003, 2 + k), 1.0 + static_cast<double>(k)});
  const auto run = [&](std::vector<ClientUpdate> of) {
    typename Policy::State state{};
    return policy.aggregate(global, of, state);
  };
  const auto next = run(updates);
  CHECK(next.allFinite());
  CHECK((next - global).norm() > 0);
  // With one neighbour left to compare, the two nearest updates tie, and Bulyan takes the lower client's.
  if constexpr (!std::same_as<Policy, Bulyan>)
    CHECK((run({updates.rbegin(), updates.rend()}) - next).norm() <= 2e-6f * next.norm());
  CHECK(run(std::vector<ClientUpdate>(7, {Eigen::VectorXf::Zero(5003), 2})) == global);
  CHECK_THROWS_AS((void)run({}), ArgumentError);
  for (const float value : {std::nanf(""), HUGE_VALF, -HUGE_VALF})
    for (const Eigen::Index at : {7, 5002}) {
      auto broken = updates;
      broken[2].delta[at] = value;
      CHECK_THROWS_AS((void)run(broken), ArgumentError);
    }
  auto broken = updates;
  broken[0].weight = 0;
  CHECK_THROWS_AS((void)run(broken), ArgumentError);
}

TEST_CASE(
    "TrimmedMean and CoordinateMedian: one liar of five moves nothing far; NormBounded bounds the step") {
  const auto global = Eigen::VectorXf::Zero(100).eval();
  std::vector<ClientUpdate> updates(4, {Eigen::VectorXf::Constant(100, 1), 1});
  updates.push_back({Eigen::VectorXf::Constant(100, 1e6f), 1e6});
  TrimmedMean::State a;
  CoordinateMedian::State b;
  FedAvg::State c;
  CHECK(TrimmedMean{}.aggregate(global, updates, a) == Eigen::VectorXf::Constant(100, 1));
  CHECK(CoordinateMedian{}.aggregate(global, updates, b) == Eigen::VectorXf::Constant(100, 1));
  CHECK(NormBounded<>{.max_norm = 3, .inner = {}}.aggregate(global, updates, c).norm() <= 3.001f);
}

TEST_CASE("MultiKrum and Bulyan: too few clients for so many liars are refused in one sentence") {
  const std::vector<ClientUpdate> updates(4, {Eigen::VectorXf::Constant(3, 1), 1});
  MultiKrum::State a;
  Bulyan::State b;
  CHECK(support::message_of<ArgumentError>([&] {
          (void)MultiKrum{}.aggregate(Eigen::VectorXf::Zero(3), updates, a);
        }) == "Krum withstands 1 faulty clients if there are 5 updates, but 4 came");
  CHECK(support::message_of<ArgumentError>([&] {
          (void)Bulyan{}.aggregate(Eigen::VectorXf::Zero(3), updates, b);
        }) == "Bulyan withstands 1 faulty clients if there are 7 updates, but 4 came");
}

TEST_CASE("AnyAggregation: every policy by its name, with its state, as the policy itself") {
  check_golden("fedavg", AnyAggregation::parse("fedavg"));
  check_golden("fedavgm", AnyAggregation::parse("fedavgm"));
  check_golden("fedadam", AnyAggregation::parse("fedadam"));
  check_golden("fedyogi", AnyAggregation::parse("fedyogi"));
  check_golden("fedadagrad", AnyAggregation::parse("fedadagrad"));
  std::vector<ClientUpdate> updates;
  for (std::uint64_t i = 0; i < 7; ++i) updates.push_back({random_vector(9, i), 1.0 + double(i)});
  const auto same = [&](const char* text, const auto& policy) {
    CAPTURE(text);
    typename std::decay_t<decltype(policy)>::State state;
    AnyAggregation::State any;
    const auto global = random_vector(9, 99);
    CHECK(AnyAggregation::parse(text).aggregate(global, updates, any) ==
          policy.aggregate(global, updates, state));
  };
  same("trimmed_mean:0.3", TrimmedMean{0.3});
  same("coordinate_median", CoordinateMedian{});
  same("geometric_median:4,smoothing=0.5", GeometricMedian{4, 0.5});
  same("krum", MultiKrum{1, 1});
  same("multi_krum:2,keep=3", MultiKrum{2, 3});
  same("bulyan", Bulyan{1});
  same("fedprox:0.3", FedProx{0.3});
  same("fedprox:0.3", FedAvg{});
  CHECK(AnyAggregation::parse("fedprox:0.3").proximal_mu() == 0.3);
  CHECK(AnyAggregation::parse("fedavg").proximal_mu() == 0);
  same("norm:0.25+fedavg", NormBounded<FedAvg>{0.25f, {}});
  same("norm:0.5+trimmed_mean:0.1", NormBounded<TrimmedMean>{0.5f, {0.1}});
  same("fedadam:0.5,beta2=0.9", FedAdam{0.5f, 0.9f, 0.9f, 1e-3f});
}

TEST_CASE("AnyAggregation: its text reads as itself; what is wrong is said in one sentence") {
  for (const auto* text : {"fedavg", "norm:10+fedadam:learning_rate=0.01,beta1=0.9,beta2=0.99,tau=0.001",
                           "trimmed_mean:share=0.1", "krum:faulty=2,keep=1", "multi_krum:faulty=1,keep=0"})
    CHECK(AnyAggregation::parse(text).text() == text);
  CHECK(AnyAggregation::parse("bulyan:2").least_updates() == 11);
  CHECK(AnyAggregation::parse("norm:3").text() == "norm:3+fedavg");
  const auto refuses = [](const char* text, const char* says) {
    CHECK_THROWS_WITH_AS((void)AnyAggregation::parse(text), doctest::Contains(says), ArgumentError);
  };
  refuses("mean", "there is no aggregation 'mean'; there are fedavg, fedprox, fedavgm, ");
  refuses("", "there is no aggregation ''");
  refuses("trimmed_mean:0.5", "share is 0.5, but it must be in [0, 0.5)");
  refuses("trimmed_mean:x", "share of the aggregation trimmed_mean is 'x', which is no such number");
  refuses("fedavg:1", "the aggregation fedavg has no setting '1'");
  refuses("fedadam:gamma=1", "the aggregation fedadam has no setting 'gamma'");
  refuses("fedadam:nan", "learning_rate is nan");
  refuses("norm:0+fedavg", "bounds norms by 0, which must be positive");
  refuses("norm:+fedavg", "which is no such number");
  refuses("norm:nan+fedavg", "must be positive");
  refuses("krum:9223372036854775807", "faulty is 9223372036854775807, but it must be 0 to 100");
  refuses("krum:-1", "faulty is -1");
  refuses("multi_krum:1,keep=2000", "keep is 2000");
}

TEST_CASE("StreamingAggregation: the mean family gives the same bits from one running sum") {
  std::vector<ClientUpdate> updates;
  for (std::uint64_t i = 0; i < 7; ++i) updates.push_back({random_vector(9000, i), 1.0 + double(i)});
  for (const auto* text : {"fedavg", "fedprox:0.5", "fedavgm", "fedadam", "fedyogi", "fedadagrad",
                           "norm:20+fedadam", "norm:1+fedavg"}) {
    CAPTURE(text);
    const auto policy = AnyAggregation::parse(text);
    REQUIRE(policy.streams());
    AnyAggregation::State whole, streamed;
    auto x = random_vector(9000, 99), y = x;
    for (int round = 0; round < 2; ++round) {
      WeightedSum sum;
      const std::span<const ClientUpdate> all(updates);
      policy.add(sum, all.first(round == 0 ? 1 : 4));  // what comes at a time does not matter
      policy.add(sum, all.subspan(round == 0 ? 1 : 4));
      x = policy.aggregate(x, updates, whole);
      auto also = streamed;
      const auto z = policy.finish(
          y,
          [&] {
            WeightedSum some;
            policy.add(some, all.first(3));
            return some;
          }(),
          also, all.subspan(3));
      y = policy.finish(y, sum, streamed);
      CHECK(x == y);
      CHECK(z == y);
    }
  }
  for (const auto* text : {"trimmed_mean", "coordinate_median", "geometric_median", "krum", "bulyan"})
    CHECK_FALSE(AnyAggregation::parse(text).streams());
  WeightedSum sum;
  CHECK_THROWS_AS((void)sum.mean(), ArgumentError);
  CHECK_THROWS_AS(sum.add(std::span<const ClientUpdate>()), ArgumentError);
  sum.add({random_vector(3, 1), 1});
  CHECK_THROWS_AS(sum.add({random_vector(4, 1), 1}), ArgumentError);
}

TEST_CASE(
    "WeightedSum: updates where they lie, some at a time, give the mean to the bit, onto a vector too") {
  constexpr Eigen::Index kSize = 9001;
  std::vector<ClientUpdate> updates;
  for (std::uint64_t i = 0; i < 37; ++i) updates.push_back({random_vector(kSize, i), 1.0 + double(i)});
  const auto views = views_of(updates);
  const auto expected = weighted_mean(kSize, updates);
  const auto global = random_vector(kSize, 99);
  for (const std::size_t together : {1, 3, 8, 16, 20, 37}) {
    CAPTURE(together);
    WeightedSum sum;
    for (std::span rest(views); !rest.empty(); rest = rest.subspan(std::min(together, rest.size())))
      sum.add(rest.first(std::min(together, rest.size())));
    CHECK(sum.mean() == expected);
    CHECK(sum.mean_onto(global) == global + expected);
    CHECK(WeightedSum().mean_onto(global, std::span(views)) == global + expected);
    WeightedSum without;  // the last few
    const std::span all(views);
    const auto before = std::min(together, all.size() - 1);
    without.add(all.first(before));
    CHECK(without.mean(all.subspan(before)) == expected);
    CHECK(without.mean_onto(global, all.subspan(before)) == global + expected);
    CHECK_THROWS_WITH_AS((void)sum.mean_onto(Eigen::VectorXf::Zero(kSize - 1)),
                         "the updates have 9001 numbers, but 9000 are trained", ArgumentError);
  }
}

TEST_CASE(
    "WeightedSum: is lost with numbers that are not finite, and not with what is seen to be wrong before") {
  constexpr Eigen::Index kSize = 5003;  // more than a piece, and no multiple of anything
  std::vector<ClientUpdate> good;
  for (std::uint64_t i = 0; i < 11; ++i) good.push_back({random_vector(kSize, i), 1.0 + double(i)});
  const std::span<const ClientUpdate> all(good);
  for (const float value : {std::nanf(""), HUGE_VALF, -HUGE_VALF})
    for (const Eigen::Index at : {Eigen::Index{0}, kSize - 1})
      for (const std::size_t together : {1, 2, 3, 8, 11}) {
        CAPTURE(value);
        CAPTURE(at);
        CAPTURE(together);
        auto broken = good;
        broken[together - 1].delta[at] = value;
        const auto refused = std::span<const ClientUpdate>(broken).first(together);
        const auto sentence =
            "the update of client " + std::to_string(together - 1) + " holds a number that is not finite";
        for (const std::size_t before : {0, 3}) {
          WeightedSum sum;
          if (before > 0) sum.add(all.first(before));
          CHECK_THROWS_WITH_AS((void)sum.mean(refused), sentence.c_str(), ArgumentError);
          if (before > 0) CHECK(sum.mean() == weighted_mean(kSize, all.first(before)));  // as it was
          CHECK_THROWS_WITH_AS(sum.add(refused), sentence.c_str(), ArgumentError);
          const auto* lost = "the sum was lost with an update that it refused";
          CHECK_THROWS_WITH_AS((void)sum.mean(), lost, ArgumentError);
          CHECK_THROWS_WITH_AS((void)sum.mean_onto(random_vector(kSize, 1)), lost, ArgumentError);
          CHECK_THROWS_WITH_AS(sum.add(all), lost, ArgumentError);
        }
      }
  WeightedSum sum;
  sum.add(all.first(3));
  auto broken = good;
  broken[1].weight = -1;
  CHECK_THROWS_AS(sum.add(std::span<const ClientUpdate>(broken)), ArgumentError);
  broken = good;
  broken[10].delta.conservativeResize(kSize - 1);
  CHECK_THROWS_AS(sum.add(std::span<const ClientUpdate>(broken)), ArgumentError);
  sum.add(all.subspan(3));
  CHECK(sum.mean() == weighted_mean(kSize, good));
  WeightedSum heavy;  // too much for double: no update's fault
  for (int k = 0; k < 2; ++k) heavy.add({Eigen::VectorXf::Constant(3, 2), 1e308});
  CHECK_FALSE(heavy.mean().allFinite());
}

TEST_CASE("aggregation policies: the number of threads does not change a bit; every instruction set agrees") {
  std::vector<ClientUpdate> updates;
  for (std::uint64_t i = 0; i < 9; ++i) updates.push_back({random_vector(40007, i), 1.0 + double(i)});
  const auto global = random_vector(40007, 99);
  const auto threads = omp_get_max_threads();
  for (const auto* text : {"fedavg", "fedadam", "norm:20+fedyogi", "trimmed_mean", "coordinate_median",
                           "bulyan", "geometric_median", "multi_krum"}) {
    CAPTURE(text);
    const auto run = [&](int number, simd::Isa isa) {
      omp_set_num_threads(number);
      simd::chosen_isa() = isa;
      AnyAggregation::State state;
      auto next = AnyAggregation::parse(text).aggregate(global, updates, state);
      simd::chosen_isa() = simd::best_isa();
      omp_set_num_threads(threads);
      return next;
    };
    const auto best = run(1, simd::best_isa());
    CHECK(run(3, simd::best_isa()) == best);
    for (const auto isa : {simd::Isa::kGeneric, simd::Isa::kAvx2})
      if (isa <= simd::best_isa()) CHECK((run(2, isa) - best).norm() <= 1e-7f * best.norm());
  }
}

TEST_CASE(
    "sorting_network: sorts every mix of zeros and ones, and without what is not asked for its middle") {
  for (std::size_t n = 1; n <= 11; ++n)
    for (std::size_t cut = 0; 2 * cut < n; ++cut) {
      const auto network = detail::sorting_network(n, cut, n - cut);
      if (n > 6 && 2 * cut + 2 >= n) CHECK(network.size() < detail::sorting_network(n, 0, n).size());
      for (std::uint32_t mix = 0; mix < (1u << n); ++mix) {
        std::vector<int> values(n);
        for (std::size_t i = 0; i < n; ++i) values[i] = static_cast<int>(mix >> i & 1u);
        auto sorted = values;
        std::sort(sorted.begin(), sorted.end());
        for (const auto& [low, high] : network)
          if (values[low] > values[high]) std::swap(values[low], values[high]);
        for (std::size_t i = cut; i < n - cut; ++i)
          if (values[i] != sorted[i]) FAIL("place " << i << " of " << n << " for mix " << mix);
      }
    }
}

TEST_CASE("TrimmedMean, CoordinateMedian: as sorting every coordinate, for few and for many clients") {
  for (const std::size_t n : {1, 2, 3, 8, 33, 130}) {
    CAPTURE(n);
    std::vector<ClientUpdate> updates;
    for (std::size_t i = 0; i < n; ++i) updates.push_back({random_vector(201, i), 1});
    const auto global = random_vector(201, 999);
    Eigen::VectorXf trimmed(201), median(201);
    const auto cut = n / 5;
    for (Eigen::Index k = 0; k < 201; ++k) {
      std::vector<float> values;
      for (const auto& update : updates) values.push_back(update.delta[k]);
      std::sort(values.begin(), values.end());
      double sum = 0;
      for (auto i = cut; i < n - cut; ++i) sum += double{values[i]};
      trimmed[k] = global[k] + static_cast<float>(sum / static_cast<double>(n - 2 * cut));
      median[k] = global[k] + static_cast<float>((double{values[(n - 1) / 2]} + double{values[n / 2]}) / 2);
    }
    TrimmedMean::State a;
    CoordinateMedian::State b;
    CHECK(TrimmedMean{}.aggregate(global, updates, a) == trimmed);
    CHECK(CoordinateMedian{}.aggregate(global, updates, b) == median);
  }
}

TEST_CASE(
    "GeometricMedian: as Weiszfeld's steps on the vectors themselves, liars and a dominating client "
    "included") {
  constexpr Eigen::Index kSize = 300;
  for (const float liars : {1.0f, 1e3f, 1e15f})
    for (const double most : {1.0, 50.0}) {
      CAPTURE(liars);
      CAPTURE(most);
      std::vector<ClientUpdate> updates;
      for (std::uint64_t i = 0; i < 9; ++i)
        updates.push_back({random_vector(kSize, i), 1.0 + double(i) / 10});
      updates[3].weight = most;
      updates[0].delta *= liars, updates[1].delta *= -liars;
      Eigen::VectorXd point = weighted_mean(kSize, updates).cast<double>();
      for (int step = 0; step < 16; ++step) {
        Eigen::VectorXd sum = Eigen::VectorXd::Zero(kSize);
        double total = 0;
        for (const auto& update : updates) {
          const Eigen::VectorXd delta = update.delta.cast<double>();
          const double weight = update.weight / std::max(1e-6, (delta - point).norm());
          sum += weight * delta, total += weight;
        }
        point = sum / total;
      }
      GeometricMedian::State state;
      const auto next = GeometricMedian{}.aggregate(Eigen::VectorXf::Zero(kSize), updates, state);
      CHECK((next.cast<double>() - point).norm() <=
            1e-6 * std::max(point.norm(), updates[2].delta.cast<double>().norm()));
    }
}

TEST_CASE("MultiKrum: a liar of any length does not blur the distances between the others") {
  std::vector<ClientUpdate> updates;
  const auto common = random_vector(500, 7);
  for (std::uint64_t i = 0; i < 6; ++i) {
    const float apart = i == 4 ? 1e-3f : 2e-3f;  // client 4 is the nearest to all
    updates.push_back({common + apart * random_vector(500, 20 + i), 1});
  }
  updates[0].delta.setConstant(3e37f);
  MultiKrum::State state;
  const auto global = Eigen::VectorXf::Zero(500).eval();
  CHECK(MultiKrum{1, 1}.aggregate(global, updates, state) == updates[4].delta);
}

}  // namespace policies_test
