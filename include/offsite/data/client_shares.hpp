#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <numbers>
#include <span>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/core/random.hpp"

namespace offsite {

/// Which samples each client of a simulation has: places, ascending.
using ClientShares = std::vector<std::vector<std::int64_t>>;

namespace detail {

inline void check_shares(std::int64_t samples, std::int64_t clients) {
  require(clients > 0, "{} clients were asked for, but there must be at least one", clients);
  require(samples >= clients, "{} samples cannot be split among {} clients: each needs one", samples,
          clients);
}

/// Gamma(shape, 1), in its logarithm, since a small shape gives numbers below the smallest double (Marsaglia, Tsang,
/// "A simple method for generating gamma variables", 2000).
[[nodiscard]] inline double log_gamma_variate(double shape, RandomStream& random) {
  const auto open = [&] { return 1 - random.uniform(); };  // (0, 1]
  const double boost = shape < 1 ? std::log(open()) / shape : 0;
  const double d = (shape < 1 ? shape + 1 : shape) - 1.0 / 3, c = 1 / std::sqrt(9 * d);
  for (;;) {
    const double normal =
        std::sqrt(-2 * std::log(open())) * std::cos(2 * std::numbers::pi * random.uniform());
    const double v = std::pow(1 + c * normal, 3);
    if (v > 0 && std::log(open()) < 0.5 * normal * normal + d - d * v + d * std::log(v))
      return boost + std::log(d * v);
  }
}

/// A draw of Dirichlet(alpha, ..., alpha), summed up: ascending, the last 1.
[[nodiscard]] inline std::vector<double> dirichlet_bounds(std::int64_t count, double alpha,
                                                          RandomStream& random) {
  std::vector<double> shares(static_cast<std::size_t>(count));
  for (auto& share : shares) share = log_gamma_variate(alpha, random);
  const double most = *std::max_element(shares.begin(), shares.end());
  double sum = 0;
  for (auto& share : shares) share = sum += std::exp(share - most);
  for (auto& share : shares) share /= sum;
  shares.back() = 1;
  return shares;
}

}  // namespace detail

/// Every client the same number of samples, up to one, drawn without regard to what they are.
/// \throws ArgumentError unless each client can have one.
[[nodiscard]] inline ClientShares even_shares(std::int64_t samples, std::int64_t clients,
                                              std::uint64_t seed) {
  detail::check_shares(samples, clients);
  const auto order = permutation(samples, derive_key(seed, 0x73686172));
  ClientShares shares(static_cast<std::size_t>(clients));
  for (std::size_t i = 0; i < order.size(); ++i) shares[i % shares.size()].push_back(order[i]);
  for (auto& share : shares) std::sort(share.begin(), share.end());
  return shares;
}

/// Every label's samples are split among the clients by shares of a Dirichlet(alpha) distribution: the smaller alpha, the
/// fewer clients have most of a label (Hsu, Qi, Brown, arXiv:1909.06335). With one label it is the numbers of samples
/// that differ. A client that would have none gets one of the client's with most.
/// \throws ArgumentError unless alpha is positive and each client can have a sample.
[[nodiscard]] inline ClientShares dirichlet_shares(std::span<const std::int64_t> labels, std::int64_t clients,
                                                   double alpha, std::uint64_t seed) {
  detail::check_shares(std::ssize(labels), clients);
  require(alpha > 0 && alpha <= 1e6, "alpha is {}, but it must be above 0 and at most 1e6", alpha);
  std::map<std::int64_t, std::vector<std::int64_t>> places;
  const auto order = permutation(std::ssize(labels), derive_key(seed, 0x73686172));
  for (const auto i : order) places[labels[static_cast<std::size_t>(i)]].push_back(i);
  ClientShares shares(static_cast<std::size_t>(clients));
  RandomStream random(derive_key(seed, 0x64697269));
  for (const auto& [label, samples] : places) {
    const auto bounds = detail::dirichlet_bounds(clients, alpha, random);
    std::size_t next = 0;
    for (std::size_t k = 0; k < bounds.size(); ++k) {
      const auto end =
          k + 1 == bounds.size()
              ? samples.size()
              : static_cast<std::size_t>(std::llround(bounds[k] * static_cast<double>(samples.size())));
      for (; next < std::min(end, samples.size()); ++next) shares[k].push_back(samples[next]);
    }
  }
  for (auto& share : shares) {
    if (!share.empty()) continue;
    auto& largest = *std::max_element(shares.begin(), shares.end(),
                                      [](const auto& a, const auto& b) { return a.size() < b.size(); });
    share.push_back(largest.back());
    largest.pop_back();
  }
  for (auto& share : shares) std::sort(share.begin(), share.end());
  return shares;
}

}  // namespace offsite
