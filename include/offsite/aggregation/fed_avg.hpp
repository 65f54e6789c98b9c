#pragma once
#include "offsite/aggregation/aggregation_policy.hpp"
#include "offsite/aggregation/streaming.hpp"
#include "offsite/aggregation/weighted_mean.hpp"

namespace offsite {

/// The weighted mean: global + sum(w_i delta_i) / sum(w_i) (McMahan et al., arXiv:1602.05629).
struct FedAvg {
  struct State {};

  /// One pass over the updates, summed in double. \throws ArgumentError as `check_updates` does.
  [[nodiscard]] Eigen::VectorXf aggregate(const Eigen::VectorXf& global,
                                          std::span<const ClientUpdate> updates, State&) const {
    return detail::mean_onto(global.data(), global.size(), updates);
  }
  [[nodiscard]] Eigen::VectorXf step(const Eigen::VectorXf& global, Eigen::VectorXf mean, State&) const {
    detail::for_each_piece(global.size(), detail::kPiece, [&](Eigen::Index begin, Eigen::Index count) {
      mean.segment(begin, count) += global.segment(begin, count);
      return true;
    });
    return mean;
  }
  /// The same as `step` with the sum's mean, in one pass; `last` and `scales` as of that. \throws ArgumentError as `WeightedSum::mean_onto` does.
  template <class Update = UpdateView>
  [[nodiscard]] Eigen::VectorXf finish(const Eigen::VectorXf& global, const WeightedSum& sum, State&,
                                       std::span<const Update> last = {},
                                       std::span<const float> scales = {}) const {
    return sum.mean_onto(global, last, scales);
  }
};

static_assert(StepsByMean<FedAvg>);

}  // namespace offsite
