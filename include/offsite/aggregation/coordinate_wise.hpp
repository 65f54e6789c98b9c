#pragma once
#include <Eigen/Core>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

#include "offsite/aggregation/aggregation_policy.hpp"

namespace offsite {

/// Cuts floor(share n) of the n values off at each end of every coordinate and averages the rest; weights do not count
/// (Yin et al., arXiv:1803.01498).
struct TrimmedMean {
  double share = 0.2;  ///< in [0, 0.5)

  struct State {};
  [[nodiscard]] Eigen::VectorXf aggregate(const Eigen::VectorXf& global,
                                          std::span<const ClientUpdate> updates, State&) const {
    require(0 <= share && share < 0.5, "share is {}, but it must be in [0, 0.5)", share);
    check_updates(global.size(), updates);
    const auto cut = static_cast<std::size_t>(std::floor(share * static_cast<double>(updates.size())));
    Eigen::VectorXf next(global.size());
    std::vector<float> values(updates.size());
    for (Eigen::Index i = 0; i < global.size(); ++i) {
      for (std::size_t k = 0; k < values.size(); ++k) values[k] = updates[k].delta[i];
      std::sort(values.begin(), values.end());
      double sum = 0;
      for (std::size_t k = cut; k < values.size() - cut; ++k) sum += double{values[k]};
      next[i] = global[i] + static_cast<float>(sum / static_cast<double>(values.size() - 2 * cut));
    }
    return next;
  }
};

/// The median of every coordinate, the mean of the middle two of an even number; weights do not count (Yin et al.,
/// arXiv:1803.01498).
struct CoordinateMedian {
  struct State {};
  [[nodiscard]] Eigen::VectorXf aggregate(const Eigen::VectorXf& global,
                                          std::span<const ClientUpdate> updates, State&) const {
    check_updates(global.size(), updates);
    Eigen::VectorXf next(global.size());
    std::vector<float> values(updates.size());
    const auto upper = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    for (Eigen::Index i = 0; i < global.size(); ++i) {
      for (std::size_t k = 0; k < values.size(); ++k) values[k] = updates[k].delta[i];
      std::nth_element(values.begin(), upper, values.end());
      double median = double{*upper};
      if (values.size() % 2 == 0) median = (median + double{*std::max_element(values.begin(), upper)}) / 2;
      next[i] = global[i] + static_cast<float>(median);
    }
    return next;
  }
};

static_assert(AggregationPolicy<TrimmedMean> && AggregationPolicy<CoordinateMedian>);

}  // namespace offsite
