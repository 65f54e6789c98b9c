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

namespace offsite {

namespace detail {

/// Squared distances of all pairs of updates, (n, n).
[[nodiscard]] inline Eigen::MatrixXd squared_distances(std::span<const ClientUpdate> updates) {
  const auto n = std::ssize(updates);
  Eigen::MatrixXd distances = Eigen::MatrixXd::Zero(n, n);
  for (Eigen::Index i = 0; i < n; ++i)
    for (Eigen::Index j = 0; j < i; ++j) {
      const auto& a = updates[static_cast<std::size_t>(i)].delta;
      const auto& b = updates[static_cast<std::size_t>(j)].delta;
      distances(i, j) = distances(j, i) = (a - b).cast<double>().squaredNorm();
    }
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

}  // namespace detail

/// Averages the `keep` updates that lie nearest to their n - f - 2 nearest neighbours; with `keep` 1 it is Krum, with 0,
/// which stands for n - f, Multi-Krum (Blanchard et al., NeurIPS 2017). Weights do not count; ties go to the lower
/// client. O(n^2) distances.
struct MultiKrum {
  std::int64_t faulty = 1;  ///< f: clients that may lie, >= 0; n >= 2f + 3 are needed
  std::int64_t keep = 0;    ///< 1 .. n, or 0 = n - f

  struct State {};
  [[nodiscard]] Eigen::VectorXf aggregate(const Eigen::VectorXf& global,
                                          std::span<const ClientUpdate> updates, State&) const {
    check_updates(global.size(), updates);
    const auto n = std::ssize(updates);
    require(faulty >= 0 && n >= 2 * faulty + 3,
            "Krum withstands {} faulty clients if there are {} updates, but {} came", faulty, 2 * faulty + 3,
            n);
    require(0 <= keep && keep <= n, "keep is {}, but {} updates came", keep, n);
    auto order = detail::all_of(updates.size());
    const auto scores = detail::krum_scores(detail::squared_distances(updates), order,
                                            static_cast<std::size_t>(n - faulty - 2));
    std::stable_sort(order.begin(), order.end(), [&](auto i, auto j) { return scores[i] < scores[j]; });
    order.resize(static_cast<std::size_t>(keep == 0 ? n - faulty : keep));
    std::sort(order.begin(), order.end());
    Eigen::VectorXd sum = Eigen::VectorXd::Zero(global.size());
    for (const auto i : order) sum += updates[i].delta.cast<double>();
    return global + (sum / static_cast<double>(order.size())).cast<float>();
  }
};

/// Picks theta = n - 2f updates by repeated Krum, then averages in every coordinate the theta - 2f values nearest the
/// median (El Mhamdi, Guerraoui, Rouault, arXiv:1802.07927). Weights do not count; ties go to the lower client.
struct Bulyan {
  std::int64_t faulty = 1;  ///< f: clients that may lie, >= 0; n >= 4f + 3 are needed

  struct State {};
  [[nodiscard]] Eigen::VectorXf aggregate(const Eigen::VectorXf& global,
                                          std::span<const ClientUpdate> updates, State&) const {
    check_updates(global.size(), updates);
    const auto n = std::ssize(updates);
    require(faulty >= 0 && n >= 4 * faulty + 3,
            "Bulyan withstands {} faulty clients if there are {} updates, but {} came", faulty,
            4 * faulty + 3, n);
    const auto picked = pick(updates);
    std::vector<float> values(picked.size());
    const auto count = picked.size() - static_cast<std::size_t>(2 * faulty);
    Eigen::VectorXf next(global.size());
    for (Eigen::Index i = 0; i < global.size(); ++i) {
      for (std::size_t k = 0; k < picked.size(); ++k) values[k] = updates[picked[k]].delta[i];
      next[i] = global[i] + static_cast<float>(mean_near_median(values, count));
    }
    return next;
  }

 private:
  [[nodiscard]] std::vector<std::size_t> pick(std::span<const ClientUpdate> updates) const {
    const auto distances = detail::squared_distances(updates);
    auto left = detail::all_of(updates.size());
    std::vector<std::size_t> picked;
    const auto f = static_cast<std::size_t>(faulty);
    while (picked.size() < updates.size() - 2 * f) {
      const auto neighbours = left.size() > f + 2 ? left.size() - f - 2 : std::size_t{1};
      const auto scores = detail::krum_scores(distances, left, neighbours);
      const auto best = std::min_element(scores.begin(), scores.end()) - scores.begin();
      picked.push_back(left[static_cast<std::size_t>(best)]);
      left.erase(left.begin() + best);
    }
    return picked;
  }
  /// Of sorted values those nearest the median are neighbours: the run of `count` with the smallest largest distance.
  [[nodiscard]] static double mean_near_median(std::vector<float>& values, std::size_t count) {
    std::sort(values.begin(), values.end());
    const auto n = values.size();
    const double median = (double{values[(n - 1) / 2]} + double{values[n / 2]}) / 2;
    std::size_t begin = 0;
    while (begin + count < n &&
           std::abs(double{values[begin + count]} - median) < std::abs(double{values[begin]} - median))
      ++begin;
    double sum = 0;
    for (std::size_t k = begin; k < begin + count; ++k) sum += double{values[k]};
    return sum / static_cast<double>(count);
  }
};

static_assert(AggregationPolicy<MultiKrum> && AggregationPolicy<Bulyan>);

}  // namespace offsite
