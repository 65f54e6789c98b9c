#pragma once
#include <Eigen/Core>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "offsite/aggregation/aggregation_policy.hpp"
#include "offsite/aggregation/sorted_tiles.hpp"

namespace offsite {

namespace detail {

/// Places `first` .. `last` - 1 of the sorted values.
struct Places {
  std::size_t first = 0, last = 0;
};

/// The mean of the values at these places, in double.
struct MeanOfPlaces {
  template <simd::Isa>
  [[gnu::always_inline]] static void run(const std::int32_t* tile, Eigen::Index, const Places& places,
                                         float* out) {
    double sums[kTile] = {};
    float row[kTile];
    for (auto k = places.first; k < places.last; ++k) {
      read_row(tile + static_cast<Eigen::Index>(k) * kTile, &row[0]);
      for (int i = 0; i < kTile; ++i) sums[i] += double{row[i]};
    }
    const auto count = static_cast<double>(places.last - places.first);
    for (int i = 0; i < kTile; ++i) out[i] = static_cast<float>(sums[i] / count);
  }
};

[[nodiscard]] inline Eigen::VectorXf mean_of_places(const Eigen::VectorXf& global,
                                                    std::span<const ClientUpdate> updates, Places places) {
  std::vector<const float*> all;
  for (const auto& update : updates) all.push_back(update.delta.data());
  return reduce_sorted<MeanOfPlaces>(global, updates, all, places.first, places.last, places);
}

}  // namespace detail

/// Cuts floor(share n) of the n values off at each end of every coordinate and averages the rest; weights do not count
/// (Yin et al., arXiv:1803.01498).
struct TrimmedMean {
  double share = 0.2;  ///< in [0, 0.5)

  struct State {};
  [[nodiscard]] Eigen::VectorXf aggregate(const Eigen::VectorXf& global,
                                          std::span<const ClientUpdate> updates, State&) const {
    require(0 <= share && share < 0.5, "share is {}, but it must be in [0, 0.5)", share);
    detail::check_shapes(global.size(), updates);
    const auto cut = static_cast<std::size_t>(std::floor(share * static_cast<double>(updates.size())));
    return detail::mean_of_places(global, updates, {cut, updates.size() - cut});
  }
};

/// The median of every coordinate, the mean of the middle two of an even number; weights do not count (Yin et al.,
/// arXiv:1803.01498).
struct CoordinateMedian {
  struct State {};
  [[nodiscard]] Eigen::VectorXf aggregate(const Eigen::VectorXf& global,
                                          std::span<const ClientUpdate> updates, State&) const {
    detail::check_shapes(global.size(), updates);
    const auto n = updates.size();
    return detail::mean_of_places(global, updates, {(n - 1) / 2, n / 2 + 1});
  }
};

static_assert(AggregationPolicy<TrimmedMean> && AggregationPolicy<CoordinateMedian>);

}  // namespace offsite
