#pragma once
#include <Eigen/Core>

#include <concepts>
#include <span>

#include "offsite/aggregation/aggregation_policy.hpp"
#include "offsite/aggregation/pieces.hpp"
#include "offsite/aggregation/weighted_mean.hpp"

namespace offsite {

/// A weighted mean in the making: one running sum, in double, however many updates there are.
class WeightedSum {
 public:
  /// Adds an update, scaled by `scale` first. \throws ArgumentError as `check_updates` does; then nothing was added.
  void add(const ClientUpdate& update, float scale = 1) {
    check_updates(sum_.size() == 0 ? update.delta.size() : sum_.size(), std::span(&update, 1));
    if (sum_.size() == 0) sum_.setZero(update.delta.size());
    const detail::Addend addend{update.delta.data(), update.weight, scale};
    detail::for_each_piece(sum_.size(), detail::kPiece, [&](Eigen::Index begin, Eigen::Index count) {
      simd::run<detail::AddWeighted>(std::span(&addend, 1), begin, count, sum_.data() + begin);
      return true;
    });
    weight_ += update.weight;
  }
  /// The mean, to the bit that of `weighted_mean` of the same updates in the same order.
  [[nodiscard]] Eigen::VectorXf mean() const {
    require(weight_ > 0, "there is no update to aggregate");
    Eigen::VectorXf mean(sum_.size());
    detail::for_each_piece(sum_.size(), detail::kPiece, [&](Eigen::Index begin, Eigen::Index count) {
      bool finite = true;
      const float* base = nullptr;
      simd::run<detail::DivideSum>(sum_.data() + begin, weight_, base, mean.data() + begin, count, &finite);
      return finite;
    });
    return mean;
  }

 private:
  Eigen::VectorXd sum_;
  double weight_ = 0;
};

/// A policy that may take updates one by one, so that no two of them are in memory.
///
///   `p.streams()`                     whether this one does; some policies need all updates at once
///   `p.add(sum, update)`              takes an update into a `WeightedSum`
///   `p.finish(global, sum, state)`    what `aggregate` gives for the same updates in the same order, bit for bit
template <class P>
concept StreamingAggregation = AggregationPolicy<P> &&
    requires(const P& policy, WeightedSum& sum, ClientUpdate update, const Eigen::VectorXf& global,
             typename P::State& state) {
  { policy.streams() } -> std::same_as<bool>;
  policy.add(sum, update);
  { policy.finish(global, sum, state) } -> std::same_as<Eigen::VectorXf>;
};

}  // namespace offsite
