#pragma once
#include <cmath>
#include <utility>

#include "offsite/aggregation/fed_avg.hpp"

namespace offsite {

/// FedAvg of clients that are held near the values they received: each adds mu / 2 * ||its values - received||^2 to its
/// loss (Li et al., arXiv:1812.06127, equation 2). The owner's part is the mean; mu travels with the round and is
/// `TrainingOptions::proximal_mu` at the client.
struct FedProx {
  using State = FedAvg::State;

  double mu = 0.01;  ///< > 0

  /// \throws ArgumentError as FedAvg does, or if mu is not positive.
  [[nodiscard]] Eigen::VectorXf aggregate(const Eigen::VectorXf& global,
                                          std::span<const ClientUpdate> updates, State& state) const {
    check();
    return FedAvg{}.aggregate(global, updates, state);
  }
  [[nodiscard]] Eigen::VectorXf step(const Eigen::VectorXf& global, Eigen::VectorXf mean,
                                     State& state) const {
    check();
    return FedAvg{}.step(global, std::move(mean), state);
  }
  template <class Update = UpdateView>
  [[nodiscard]] Eigen::VectorXf finish(const Eigen::VectorXf& global, const WeightedSum& sum, State& state,
                                       std::span<const Update> last = {},
                                       std::span<const float> scales = {}) const {
    check();
    return FedAvg{}.finish(global, sum, state, last, scales);
  }

 private:
  void check() const { require(mu > 0 && std::isfinite(mu), "mu is {}, but it must be positive", mu); }
};

static_assert(StepsByMean<FedProx>);

}  // namespace offsite
