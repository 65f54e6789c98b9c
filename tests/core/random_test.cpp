#include "offsite/core/random.hpp"

#include <algorithm>
#include <vector>

#include "support/test.hpp"

namespace random_test {

using namespace offsite;

TEST_CASE("permutation: every element once, fixed by its key, different for another key") {
  for (const std::int64_t n : {0, 1, 2, 17, 1000}) {
    auto order = permutation(n, 42);
    CHECK(order == permutation(n, 42));
    if (n > 10) CHECK(order != permutation(n, 43));
    std::sort(order.begin(), order.end());
    for (std::int64_t i = 0; i < n; ++i) CHECK(order[static_cast<std::size_t>(i)] == i);
  }
  CHECK_THROWS_AS((void)permutation(-1, 0), ArgumentError);
}

TEST_CASE("permutation: pinned, so that runs of earlier builds and other machines repeat") {
  CHECK(permutation(8, 42) == std::vector<std::int64_t>{5, 4, 2, 7, 0, 1, 6, 3});
  CHECK(derive_key(1, 2, 3) == 0xd0734750fde362b3u);
  CHECK(derive_key(1, 2, 3) != derive_key(1, 3, 2));
}

TEST_CASE("RandomStream: stays below its bound, fills [0, 1) evenly") {
  RandomStream random(7);
  std::vector<int> counts(10);
  for (int i = 0; i < 100000; ++i) ++counts[random.below(10)];
  for (const int c : counts) CHECK(std::abs(c - 10000) < 500);
  double sum = 0;
  for (int i = 0; i < 100000; ++i) {
    const double x = random.uniform();
    REQUIRE((0 <= x && x < 1));
    sum += x;
  }
  CHECK(sum / 100000 == doctest::Approx(0.5).epsilon(0.01));
  CHECK_THROWS_AS((void)random.below(0), ArgumentError);
}

}  // namespace random_test
