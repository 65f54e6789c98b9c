#include <Eigen/Core>

#include <cmath>
#include <limits>
#include <vector>

#include "offsite/aggregation/fed_avg.hpp"
#include "offsite/core/random.hpp"

#include "support/test.hpp"

namespace aggregation_test {

using namespace offsite;

namespace {

Eigen::VectorXf random_vector(Eigen::Index size, std::uint64_t key) {
  RandomStream random(key);
  Eigen::VectorXf v(size);
  for (auto& x : v) x = static_cast<float>(random.uniform() - 0.5);
  return v;
}

template <AggregationPolicy Policy>
Eigen::VectorXf aggregate(const Policy& policy, const Eigen::VectorXf& global,
                          const std::vector<ClientUpdate>& updates) {
  typename Policy::State state{};
  return policy.aggregate(global, updates, state);
}

/// What every policy must do, whatever its rule.
template <AggregationPolicy Policy>
void check_aggregation(const Policy& policy) {
  constexpr Eigen::Index n = 10007;  // no multiple of anything
  const Eigen::VectorXf global = random_vector(n, 1);
  std::vector<ClientUpdate> updates;
  for (std::uint64_t k = 0; k < 5; ++k)
    updates.push_back({random_vector(n, 2 + k), 1.0 + static_cast<double>(k)});

  const auto next = aggregate(policy, global, updates);
  CHECK(next.size() == n);
  CHECK(next.allFinite());
  CHECK(next == aggregate(policy, global, updates));  // deterministic
  std::vector<ClientUpdate> reversed(updates.rbegin(), updates.rend());
  CHECK((aggregate(policy, global, reversed) - next).norm() <= 1e-6f * next.norm());

  std::vector<ClientUpdate> zeros(3, {Eigen::VectorXf::Zero(n), 2});
  CHECK(aggregate(policy, global, zeros) == global);

  const auto fails = [&](std::vector<ClientUpdate> bad) {
    CHECK_THROWS_AS((void)aggregate(policy, global, bad), ArgumentError);
  };
  fails({});
  auto short_one = updates;
  short_one[1].delta.conservativeResize(n - 1);
  fails(short_one);
  for (const float value :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    auto broken = updates;
    broken[2].delta[n - 1] = value;
    fails(broken);
  }
  for (const double weight : {0.0, -1.0, std::nan(""), std::numeric_limits<double>::infinity()}) {
    auto broken = updates;
    broken[0].weight = weight;
    fails(broken);
  }
}

}  // namespace

TEST_CASE_TEMPLATE("AggregationPolicy conformance", Policy, FedAvg) { check_aggregation(Policy{}); }

TEST_CASE("FedAvg: weights 100, 100, 200 and values 1, 2, 3 give 2.25, a mean and not a sum") {
  const std::vector<ClientUpdate> updates{{Eigen::VectorXf::Constant(3, 1), 100},
                                          {Eigen::VectorXf::Constant(3, 2), 100},
                                          {Eigen::VectorXf::Constant(3, 3), 200}};
  CHECK(aggregate(FedAvg{}, Eigen::VectorXf::Zero(3), updates) == Eigen::VectorXf::Constant(3, 2.25f));
  CHECK(aggregate(FedAvg{}, Eigen::VectorXf::Constant(3, 1), updates) == Eigen::VectorXf::Constant(3, 3.25f));
}

TEST_CASE(
    "FedAvg: one client's update arrives exactly; each client counts, losing one leaves the others' mean") {
  const Eigen::VectorXf delta = random_vector(5000, 9), zero = Eigen::VectorXf::Zero(5000);
  CHECK(aggregate(FedAvg{}, zero, {{delta, 11679}}) == delta);

  std::vector<ClientUpdate> updates;
  for (std::uint64_t k = 0; k < 4; ++k) updates.push_back({random_vector(5000, 20 + k), 10});
  const auto all = aggregate(FedAvg{}, zero, updates);
  for (std::size_t lost = 0; lost < updates.size(); ++lost) {
    auto rest = updates;
    rest.erase(rest.begin() + static_cast<std::ptrdiff_t>(lost));
    const auto mean = aggregate(FedAvg{}, zero, rest);
    CHECK((mean - all).norm() > 0.1f * all.norm());
    CHECK((mean - (all * 4 - updates[lost].delta) / 3).norm() < 1e-5f * mean.norm());
  }
}

}  // namespace aggregation_test
