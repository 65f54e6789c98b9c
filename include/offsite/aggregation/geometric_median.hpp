#pragma once
#include <Eigen/Core>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "offsite/aggregation/aggregation_policy.hpp"
#include "offsite/aggregation/gram.hpp"
#include "offsite/aggregation/weighted_mean.hpp"

namespace offsite {

/// The point with the smallest weighted sum of distances to the updates, by the smoothed Weiszfeld algorithm from the
/// weighted mean (Pillutla, Kakade, Harchaoui, "RFA", arXiv:1912.13445). Two passes over the updates, however many
/// iterations.
struct GeometricMedian {
  std::int64_t iterations = 16;  ///< > 0
  double smoothing = 1e-6;       ///< distances count as at least this, > 0

  struct State {};
  [[nodiscard]] Eigen::VectorXf aggregate(const Eigen::VectorXf& global,
                                          std::span<const ClientUpdate> updates, State&) const {
    require(iterations > 0 && smoothing > 0, "iterations is {} and smoothing {}, but both must be positive",
            iterations, smoothing);
    const auto n = static_cast<Eigen::Index>(updates.size());
    const Eigen::MatrixXd products = detail::gram(global.size(), updates);
    // Every iterate is a mean of the updates with weights of its own, so the inner products give its distances.
    Eigen::VectorXd weights(n);
    for (Eigen::Index k = 0; k < n; ++k) weights[k] = updates[static_cast<std::size_t>(k)].weight;
    const Eigen::VectorXd first = weights;
    for (std::int64_t i = 0; i < iterations; ++i) {
      weights /= weights.sum();
      const Eigen::VectorXd along = products * weights;
      const double square = weights.dot(along);
      for (Eigen::Index k = 0; k < n; ++k) {
        const double distance = std::sqrt(std::max(0.0, products(k, k) - 2 * along[k] + square));
        weights[k] = first[k] / std::max(smoothing, distance);
      }
    }
    std::vector<detail::Addend> addends = detail::addends_of(updates);
    for (Eigen::Index k = 0; k < n; ++k) addends[static_cast<std::size_t>(k)].weight = weights[k];
    Eigen::VectorXf next(global.size());
    (void)detail::mean_of(nullptr, addends, weights.sum(), global.data(), next);
    return next;
  }
};

static_assert(AggregationPolicy<GeometricMedian>);

}  // namespace offsite
