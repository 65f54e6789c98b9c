#pragma once
#include <Eigen/Core>

#include <algorithm>
#include <cstdint>
#include <span>

#include "offsite/aggregation/aggregation_policy.hpp"
#include "offsite/aggregation/weighted_mean.hpp"

namespace offsite {

/// The point with the smallest weighted sum of distances to the updates, by the smoothed Weiszfeld algorithm from the
/// weighted mean (Pillutla, Kakade, Harchaoui, "RFA", arXiv:1912.13445).
struct GeometricMedian {
  std::int64_t iterations = 16;  ///< > 0
  double smoothing = 1e-6;       ///< distances count as at least this, > 0

  struct State {};
  [[nodiscard]] Eigen::VectorXf aggregate(const Eigen::VectorXf& global,
                                          std::span<const ClientUpdate> updates, State&) const {
    require(iterations > 0 && smoothing > 0, "iterations is {} and smoothing {}, but both must be positive",
            iterations, smoothing);
    Eigen::VectorXd point = weighted_mean(global.size(), updates).cast<double>();
    for (std::int64_t i = 0; i < iterations; ++i) {
      Eigen::VectorXd sum = Eigen::VectorXd::Zero(global.size());
      double total = 0;
      for (const auto& update : updates) {
        const double distance = (update.delta.cast<double>() - point).norm();
        const double weight = update.weight / std::max(smoothing, distance);
        sum += weight * update.delta.cast<double>();
        total += weight;
      }
      point = sum / total;
    }
    return global + point.cast<float>();
  }
};

static_assert(AggregationPolicy<GeometricMedian>);

}  // namespace offsite
