#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "offsite/data/client_shares.hpp"

#include "support/test.hpp"

namespace client_shares_test {

using namespace offsite;

namespace {

/// Every sample belongs to exactly one client, and every client has one.
void check_partition(const ClientShares& shares, std::int64_t samples) {
  std::vector<std::int64_t> all;
  for (const auto& share : shares) {
    CHECK(!share.empty());
    CHECK(std::is_sorted(share.begin(), share.end()));
    all.insert(all.end(), share.begin(), share.end());
  }
  std::sort(all.begin(), all.end());
  std::vector<std::int64_t> expected(static_cast<std::size_t>(samples));
  for (std::size_t i = 0; i < expected.size(); ++i) expected[i] = static_cast<std::int64_t>(i);
  CHECK(all == expected);
}

/// Mean over clients of the largest share that one of four labels has.
double purity(const ClientShares& shares) {
  double sum = 0;
  for (const auto& share : shares) {
    double counts[4] = {};
    for (const auto i : share) ++counts[i % 4];
    sum += *std::max_element(counts, counts + 4) / static_cast<double>(share.size());
  }
  return sum / static_cast<double>(shares.size());
}

}  // namespace

TEST_CASE("even_shares: a partition of equal sizes, another for another seed") {
  const auto shares = even_shares(103, 10, 1);
  check_partition(shares, 103);
  for (const auto& share : shares) CHECK((share.size() == 10 || share.size() == 11));
  CHECK(shares == even_shares(103, 10, 1));
  CHECK(shares != even_shares(103, 10, 2));
  check_partition(even_shares(3, 3, 1), 3);
}

TEST_CASE("dirichlet_shares: a partition whose labels are the purer the smaller alpha is") {
  std::vector<std::int64_t> labels(2000);
  for (std::size_t i = 0; i < labels.size(); ++i) labels[i] = static_cast<std::int64_t>(i % 4);
  double before = 1;
  for (const double alpha : {0.01, 0.5, 100.0}) {
    CAPTURE(alpha);
    const auto shares = dirichlet_shares(labels, 10, alpha, 3);
    check_partition(shares, 2000);
    CHECK(shares == dirichlet_shares(labels, 10, alpha, 3));
    CHECK(purity(shares) < before);
    before = purity(shares);
  }
  CHECK(before < 0.35);
  CHECK(purity(dirichlet_shares(labels, 10, 0.01, 3)) > 0.9);
}

TEST_CASE("dirichlet_shares: with one label the sizes differ; everybody has a sample") {
  const std::vector<std::int64_t> labels(50, 0);
  const auto shares = dirichlet_shares(labels, 40, 0.001, 1);
  check_partition(shares, 50);
  const auto wide = dirichlet_shares(std::vector<std::int64_t>(10'000, 0), 4, 1.0, 5);
  check_partition(wide, 10'000);
  CHECK(wide[0].size() != wide[1].size());
}

TEST_CASE("log_gamma_variate: mean and variance are the shape") {
  for (const double shape : {0.3, 1.0, 4.0}) {
    RandomStream random(7);
    double sum = 0, squares = 0;
    constexpr int kCount = 40'000;
    for (int i = 0; i < kCount; ++i) {
      const double x = std::exp(detail::log_gamma_variate(shape, random));
      sum += x;
      squares += x * x;
    }
    const double mean = sum / kCount;
    CHECK(mean == doctest::Approx(shape).epsilon(0.03));
    CHECK(squares / kCount - mean * mean == doctest::Approx(shape).epsilon(0.08));
  }
}

TEST_CASE("client shares: what cannot be split is said") {
  CHECK_THROWS_WITH_AS((void)even_shares(2, 3, 1),
                       "2 samples cannot be split among 3 clients: each needs one", ArgumentError);
  CHECK_THROWS_AS((void)even_shares(2, 0, 1), ArgumentError);
  const std::vector<std::int64_t> labels(4, 0);
  CHECK_THROWS_AS((void)dirichlet_shares(labels, 2, 0, 1), ArgumentError);
  CHECK_THROWS_AS((void)dirichlet_shares(labels, 2, std::nan(""), 1), ArgumentError);
}

}  // namespace client_shares_test
