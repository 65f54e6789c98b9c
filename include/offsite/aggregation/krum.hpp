#pragma once
#include <Eigen/Core>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "offsite/aggregation/aggregation_policy.hpp"
#include "offsite/aggregation/gram.hpp"
#include "offsite/aggregation/sorted_tiles.hpp"
#include "offsite/aggregation/weighted_mean.hpp"

namespace offsite {

namespace detail {

/// Squared distances of all pairs of updates, (n, n), from their inner products. In double that loses nothing that counts:
/// a distance of honest updates holds their own lengths only, however long a dishonest one is.
/// \throws ArgumentError as `check_updates` does.
[[nodiscard]] inline Eigen::MatrixXd squared_distances(Eigen::Index size,
                                                       std::span<const ClientUpdate> updates) {
  auto distances = gram(size, updates);
  const Eigen::VectorXd squares = distances.diagonal();
  for (Eigen::Index i = 0; i < distances.rows(); ++i)
    for (Eigen::Index j = 0; j < distances.cols(); ++j)
      distances(i, j) = std::max(0.0, squares[i] + squares[j] - 2 * distances(i, j));
  return distances;
}

/// Of the updates `left`, each one's sum of the smallest `count` squared distances to the others.
[[nodiscard]] inline std::vector<double> krum_scores(const Eigen::MatrixXd& distances,
                                                     const std::vector<std::size_t>& left,
                                                     std::size_t count) {
  std::vector<double> scores, others;
  for (const auto i : left) {
    others.clear();
    for (const auto j : left)
      if (j != i) others.push_back(distances(static_cast<Eigen::Index>(i), static_cast<Eigen::Index>(j)));
    std::sort(others.begin(), others.end());
    const auto taken = others.begin() + static_cast<std::ptrdiff_t>(std::min(count, others.size()));
    scores.push_back(std::accumulate(others.begin(), taken, 0.0));
  }
  return scores;
}

[[nodiscard]] inline std::vector<std::size_t> all_of(std::size_t count) {
  std::vector<std::size_t> numbers(count);
  std::iota(numbers.begin(), numbers.end(), std::size_t{0});
  return numbers;
}

/// Of the sorted values of every coordinate, the mean of the `count` nearest the median. They are neighbours: the run with
/// the smallest largest distance.
struct MeanNearMedian {
  template <simd::Isa>
  [[gnu::always_inline]] static void run(const std::int32_t* tile, Eigen::Index n,
                                         const std::ptrdiff_t& count, float* out) {
    float low[kTile], high[kTile];
    double median[kTile], sums[kTile] = {};
    std::int32_t begin[kTile] = {};
    read_row(tile + (n - 1) / 2 * kTile, &low[0]);
    read_row(tile + n / 2 * kTile, &high[0]);
    for (int i = 0; i < kTile; ++i) median[i] = (double{low[i]} + double{high[i]}) / 2;
    for (std::int32_t k = 0; k + count < n; ++k) {
      read_row(tile + k * kTile, &low[0]);
      read_row(tile + (k + count) * kTile, &high[0]);
      for (int i = 0; i < kTile; ++i)
        begin[i] +=
            begin[i] == k && std::abs(double{high[i]} - median[i]) < std::abs(double{low[i]} - median[i]);
    }
    for (std::int32_t k = 0; k < n; ++k) {
      read_row(tile + k * kTile, &low[0]);
      for (int i = 0; i < kTile; ++i) sums[i] += begin[i] <= k && k < begin[i] + count ? double{low[i]} : 0;
    }
    for (int i = 0; i < kTile; ++i) out[i] = static_cast<float>(sums[i] / static_cast<double>(count));
  }
};

}  // namespace detail

/// Averages the `keep` updates that lie nearest to their n - f - 2 nearest neighbours; with `keep` 1 it is Krum, with 0,
/// which stands for n - f, Multi-Krum (Blanchard et al., NeurIPS 2017). Weights do not count; ties go to the lower
/// client. O(n^2) inner products, in one pass over the updates.
struct MultiKrum {
  std::int64_t faulty = 1;  ///< f: clients that may lie, >= 0; n >= 2f + 3 are needed
  std::int64_t keep = 0;    ///< 1 .. n, or 0 = n - f

  struct State {};
  [[nodiscard]] Eigen::VectorXf aggregate(const Eigen::VectorXf& global,
                                          std::span<const ClientUpdate> updates, State&) const {
    detail::check_shapes(global.size(), updates);
    const auto n = std::ssize(updates);
    require(faulty >= 0 && n >= 2 * faulty + 3,
            "Krum withstands {} faulty clients if there are {} updates, but {} came", faulty, 2 * faulty + 3,
            n);
    require(0 <= keep && keep <= n, "keep is {}, but {} updates came", keep, n);
    auto order = detail::all_of(updates.size());
    const auto scores = detail::krum_scores(detail::squared_distances(global.size(), updates), order,
                                            static_cast<std::size_t>(n - faulty - 2));
    std::stable_sort(order.begin(), order.end(), [&](auto i, auto j) { return scores[i] < scores[j]; });
    order.resize(static_cast<std::size_t>(keep == 0 ? n - faulty : keep));
    std::sort(order.begin(), order.end());
    std::vector<detail::Addend> kept;
    for (const auto i : order) kept.push_back({updates[i].delta.data()});
    Eigen::VectorXf next(global.size());
    (void)detail::mean_of(nullptr, kept, static_cast<double>(order.size()), global.data(), next);
    return next;
  }
};

/// Picks theta = n - 2f updates by repeated Krum, then averages in every coordinate the theta - 2f values nearest the
/// median (El Mhamdi, Guerraoui, Rouault, arXiv:1802.07927). Weights do not count; ties go to the lower client.
struct Bulyan {
  std::int64_t faulty = 1;  ///< f: clients that may lie, >= 0; n >= 4f + 3 are needed

  struct State {};
  [[nodiscard]] Eigen::VectorXf aggregate(const Eigen::VectorXf& global,
                                          std::span<const ClientUpdate> updates, State&) const {
    detail::check_shapes(global.size(), updates);
    const auto n = std::ssize(updates);
    require(faulty >= 0 && n >= 4 * faulty + 3,
            "Bulyan withstands {} faulty clients if there are {} updates, but {} came", faulty,
            4 * faulty + 3, n);
    const auto picked = pick(detail::squared_distances(global.size(), updates));
    std::vector<const float*> chosen;
    for (const auto i : picked) chosen.push_back(updates[i].delta.data());
    return detail::reduce_sorted<detail::MeanNearMedian>(global, updates, chosen, 0, chosen.size(),
                                                         std::ssize(chosen) - 2 * faulty);
  }

 private:
  [[nodiscard]] std::vector<std::size_t> pick(const Eigen::MatrixXd& distances) const {
    const auto n = static_cast<std::size_t>(distances.rows());
    auto left = detail::all_of(n);
    std::vector<std::size_t> picked;
    const auto f = static_cast<std::size_t>(faulty);
    while (picked.size() < n - 2 * f) {
      const auto neighbours = left.size() > f + 2 ? left.size() - f - 2 : std::size_t{1};
      const auto scores = detail::krum_scores(distances, left, neighbours);
      const auto best = std::min_element(scores.begin(), scores.end()) - scores.begin();
      picked.push_back(left[static_cast<std::size_t>(best)]);
      left.erase(left.begin() + best);
    }
    return picked;
  }
};

static_assert(AggregationPolicy<MultiKrum> && AggregationPolicy<Bulyan>);

}  // namespace offsite
