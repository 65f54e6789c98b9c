#pragma once
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include "offsite/core/error.hpp"

namespace offsite {

/// The finaliser of SplitMix64: a bijection of 64 bits whose outputs pass as random (Steele, Lea, Flood, OOPSLA 2014).
[[nodiscard]] constexpr std::uint64_t mix(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

/// A key derived from a seed and any number of counters, the same on every machine: what makes one seed fix everything.
template <class... Counters>
[[nodiscard]] constexpr std::uint64_t derive_key(std::uint64_t seed, Counters... counters) {
  std::uint64_t key = mix(seed);
  ((key = mix(key ^ static_cast<std::uint64_t>(counters))), ...);
  return key;
}

/// A stream of random numbers fixed by its key; unlike `std::mt19937` with a distribution, equal on all platforms.
class RandomStream {
 public:
  explicit constexpr RandomStream(std::uint64_t key) : key_(key) {}

  [[nodiscard]] constexpr std::uint64_t next() { return mix(key_ ^ mix(counter_++)); }

  /// Uniform in [0, bound), without modulo bias. \throws ArgumentError unless bound > 0.
  [[nodiscard]] std::uint64_t below(std::uint64_t bound) {
    require(bound > 0, "a random number below {} was asked for, but the bound must be positive", bound);
    const std::uint64_t limit = bound * (~std::uint64_t{0} / bound);  // the largest multiple of bound that fits
    for (;;)
      if (const auto x = next(); x < limit) return x % bound;
  }

  /// Uniform in [0, 1), 53 bits.
  [[nodiscard]] constexpr double uniform() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }

 private:
  std::uint64_t key_;
  std::uint64_t counter_ = 0;
};

/// A random order of 0 .. count-1 (Fisher-Yates), fixed by `key`. O(count). \throws ArgumentError if count < 0.
[[nodiscard]] inline std::vector<std::int64_t> permutation(std::int64_t count, std::uint64_t key) {
  require(count >= 0, "a permutation of {} elements was asked for, but a count cannot be negative", count);
  std::vector<std::int64_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  RandomStream random(key);
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
  return order;
}

}  // namespace offsite
