#pragma once
#include <Eigen/Core>

#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

#include "offsite/aggregation/aggregation_policy.hpp"
#include "offsite/aggregation/fed_avg.hpp"
#include "offsite/aggregation/pieces.hpp"
#include "offsite/aggregation/weighted_mean.hpp"

namespace offsite {

namespace detail {

/// What each update is to be multiplied by so that none is longer than `max_norm`. \throws ArgumentError as
/// `check_updates` does, and unless the bound is positive.
template <class Update>
[[nodiscard]] std::vector<float> bounding_scales(Eigen::Index size, std::span<const Update> updates,
                                                 float max_norm) {
  require(max_norm > 0, "max_norm is {}, but it must be positive", max_norm);
  check_shapes(size, updates);
  std::vector<float> scales;
  for (const auto& update : updates) {
    const double length = norm(update.delta);
    if (!std::isfinite(length)) check_updates(size, updates);
    scales.push_back(length > double{max_norm} ? static_cast<float>(double{max_norm} / length) : 1.0f);
  }
  return scales;
}

/// Copies of the updates, scaled.
[[nodiscard]] inline std::vector<ClientUpdate> bounded_updates(Eigen::Index size,
                                                               std::span<const ClientUpdate> updates,
                                                               float max_norm) {
  const auto scales = bounding_scales(size, updates, max_norm);
  std::vector<ClientUpdate> bounded;
  bounded.reserve(updates.size());
  for (std::size_t i = 0; i < updates.size(); ++i)
    bounded.push_back({updates[i].delta * scales[i], updates[i].weight});
  return bounded;
}

/// What `policy` makes of the bounded updates; copies them only for one that needs more than their mean.
template <AggregationPolicy Policy>
[[nodiscard]] Eigen::VectorXf aggregate_bounded(Policy policy, const Eigen::VectorXf& global,
                                                std::span<const ClientUpdate> updates, float max_norm,
                                                typename Policy::State& state) {
  if constexpr (StepsByMean<Policy>) {
    const auto scales = bounding_scales(global.size(), updates, max_norm);
    return policy.step(global, mean_onto(nullptr, global.size(), updates, scales), state);
  } else {
    return policy.aggregate(global, bounded_updates(global.size(), updates, max_norm), state);
  }
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
    return detail::aggregate_bounded(inner, global, updates, max_norm, state);
  }
};

static_assert(AggregationPolicy<NormBounded<>>);

}  // namespace offsite
