#pragma once
#include <algorithm>
#include <span>

#include "offsite/aggregation/aggregation_policy.hpp"

namespace offsite {

/// sum(w_i delta_i) / sum(w_i), in one pass by pieces that stay in the cache, summed in double.
/// \throws ArgumentError as `check_updates` does.
[[nodiscard]] inline Eigen::VectorXf weighted_mean(Eigen::Index size, std::span<const ClientUpdate> updates) {
  check_updates(size, updates);
  double total = 0;
  for (const auto& update : updates) total += update.weight;
  constexpr Eigen::Index kPiece = 4096;
  Eigen::VectorXf mean(size);
  Eigen::VectorXd sum(kPiece);
  for (Eigen::Index begin = 0; begin < size; begin += kPiece) {
    const auto n = std::min(kPiece, size - begin);
    sum.head(n).setZero();
    for (const auto& update : updates)
      sum.head(n) += update.weight * update.delta.segment(begin, n).cast<double>();
    mean.segment(begin, n) = (sum.head(n) / total).cast<float>();
  }
  return mean;
}

}  // namespace offsite
