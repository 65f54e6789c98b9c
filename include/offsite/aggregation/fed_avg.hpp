#pragma once
#include <algorithm>

#include "offsite/aggregation/aggregation_policy.hpp"

namespace offsite {

/// The weighted mean: global + sum(w_i delta_i) / sum(w_i) (McMahan et al., arXiv:1602.05629).
struct FedAvg {
  struct State {};

  /// One pass over the updates, summed in double. \throws ArgumentError as `check_updates` does.
  [[nodiscard]] Eigen::VectorXf aggregate(const Eigen::VectorXf& global,
                                          std::span<const ClientUpdate> updates, State&) const {
    check_updates(global.size(), updates);
    double total = 0;
    for (const auto& update : updates) total += update.weight;

    // By pieces that stay in the cache, so that the double sums never go through memory.
    constexpr Eigen::Index kPiece = 4096;
    Eigen::VectorXf next(global.size());
    Eigen::VectorXd sum(kPiece);
    for (Eigen::Index begin = 0; begin < global.size(); begin += kPiece) {
      const auto n = std::min(kPiece, global.size() - begin);
      sum.head(n).setZero();
      for (const auto& update : updates)
        sum.head(n) += update.weight * update.delta.segment(begin, n).cast<double>();
      next.segment(begin, n) = global.segment(begin, n) + (sum.head(n) / total).cast<float>();
    }
    return next;
  }
};

static_assert(AggregationPolicy<FedAvg>);

}  // namespace offsite
