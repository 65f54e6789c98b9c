#pragma once
#include <Eigen/Core>

#include <span>
#include <vector>

#include "offsite/aggregation/aggregation_policy.hpp"
#include "offsite/aggregation/fed_avg.hpp"

namespace offsite {

namespace detail {

/// The updates, those that are longer than `max_norm` scaled down to it. \throws ArgumentError as `check_updates` does,
/// and unless the bound is positive.
[[nodiscard]] inline std::vector<ClientUpdate> bounded_updates(Eigen::Index size,
                                                               std::span<const ClientUpdate> updates,
                                                               float max_norm) {
  require(max_norm > 0, "max_norm is {}, but it must be positive", max_norm);
  check_updates(size, updates);
  std::vector<ClientUpdate> bounded(updates.begin(), updates.end());
  for (auto& update : bounded) {
    const double norm = update.delta.cast<double>().norm();
    if (norm > double{max_norm}) update.delta *= static_cast<float>(double{max_norm} / norm);
  }
  return bounded;
}

}  // namespace detail

/// Scales every update that is longer than `max_norm` down to it, then lets another policy aggregate: no client moves
/// the model further than any other may (Sun et al., arXiv:1911.07963).
template <AggregationPolicy Inner = FedAvg>
struct NormBounded {
  float max_norm = 1;  ///< L2, > 0
  Inner inner{};

  using State = typename Inner::State;
  [[nodiscard]] Eigen::VectorXf aggregate(const Eigen::VectorXf& global,
                                          std::span<const ClientUpdate> updates, State& state) const {
    return inner.aggregate(global, detail::bounded_updates(global.size(), updates, max_norm), state);
  }
};

static_assert(AggregationPolicy<NormBounded<>>);

}  // namespace offsite
