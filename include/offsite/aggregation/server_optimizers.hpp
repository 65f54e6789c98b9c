#pragma once
#include <Eigen/Core>

#include <span>

#include "offsite/aggregation/aggregation_policy.hpp"
#include "offsite/aggregation/policy_state.hpp"
#include "offsite/aggregation/weighted_mean.hpp"

namespace offsite {

/// Federated averaging with momentum on the owner's side: m = beta m + D, x += rate m, where D is the weighted mean of
/// the updates (Hsu, Qi, Brown, arXiv:1909.06335).
struct FedAvgM {
  float learning_rate = 1;  ///< > 0
  float momentum = 0.9f;    ///< in [0, 1)

  struct State {
    Eigen::VectorXf momentum{};
    template <class F>
    void visit(F&& f) {
      f("momentum", momentum);
    }
  };

  [[nodiscard]] Eigen::VectorXf aggregate(const Eigen::VectorXf& global,
                                          std::span<const ClientUpdate> updates, State& state) const {
    require(learning_rate > 0 && 0 <= momentum && momentum < 1,
            "learning_rate is {} and momentum {}, but they must be above 0, and in [0, 1)", learning_rate,
            momentum);
    const auto mean = weighted_mean(global.size(), updates);
    if (state.momentum.size() == 0) state.momentum.setZero(global.size());
    state.momentum = momentum * state.momentum + mean;
    return global + learning_rate * state.momentum;
  }
};

namespace detail {

/// First and second moment of the adaptive rules.
struct Moments {
  Eigen::VectorXf first{}, second{};
  template <class F>
  void visit(F&& f) {
    f("first", first);
    f("second", second);
  }
  void begin(Eigen::Index size, float tau) {
    if (first.size() > 0) return;
    first.setZero(size);
    second.setConstant(size, tau * tau);
  }
};

inline void check_rates(float learning_rate, float beta1, float beta2, float tau) {
  require(learning_rate > 0 && tau > 0, "learning_rate is {} and tau {}, but both must be positive",
          learning_rate, tau);
  require(0 <= beta1 && beta1 < 1 && 0 <= beta2 && beta2 < 1,
          "beta1 is {} and beta2 {}, but they must be in [0, 1)", beta1, beta2);
}

/// x + rate m / (sqrt(v) + tau)
[[nodiscard]] inline Eigen::VectorXf adaptive_step(const Eigen::VectorXf& global, const Moments& state,
                                                   float rate, float tau) {
  return (global.array() + rate * state.first.array() / (state.second.array().sqrt() + tau)).matrix();
}

}  // namespace detail

/// Adam on the owner's side, without bias correction; v starts at tau^2 (Reddi et al., arXiv:2003.00295, algorithm 2).
struct FedAdam {
  float learning_rate = 0.1f;  ///< > 0
  float beta1 = 0.9f;          ///< in [0, 1)
  float beta2 = 0.99f;         ///< in [0, 1)
  float tau = 1e-3f;           ///< > 0, how adaptive

  using State = detail::Moments;
  [[nodiscard]] Eigen::VectorXf aggregate(const Eigen::VectorXf& global,
                                          std::span<const ClientUpdate> updates, State& state) const {
    detail::check_rates(learning_rate, beta1, beta2, tau);
    const auto mean = weighted_mean(global.size(), updates);
    state.begin(global.size(), tau);
    state.first = beta1 * state.first + (1 - beta1) * mean;
    state.second.array() = beta2 * state.second.array() + (1 - beta2) * mean.array().square();
    return detail::adaptive_step(global, state, learning_rate, tau);
  }
};

/// Yogi on the owner's side: v moves towards D^2 by a step of its own size (Reddi et al., arXiv:2003.00295).
struct FedYogi {
  float learning_rate = 0.01f;  ///< > 0
  float beta1 = 0.9f;           ///< in [0, 1)
  float beta2 = 0.99f;          ///< in [0, 1)
  float tau = 1e-3f;            ///< > 0

  using State = detail::Moments;
  [[nodiscard]] Eigen::VectorXf aggregate(const Eigen::VectorXf& global,
                                          std::span<const ClientUpdate> updates, State& state) const {
    detail::check_rates(learning_rate, beta1, beta2, tau);
    const auto mean = weighted_mean(global.size(), updates);
    state.begin(global.size(), tau);
    state.first = beta1 * state.first + (1 - beta1) * mean;
    const Eigen::ArrayXf square = mean.array().square();
    state.second.array() -= (1 - beta2) * square * (state.second.array() - square).sign();
    return detail::adaptive_step(global, state, learning_rate, tau);
  }
};

/// Adagrad on the owner's side: v += D^2, no momentum (Reddi et al., arXiv:2003.00295).
struct FedAdagrad {
  float learning_rate = 0.1f;  ///< > 0
  float tau = 1e-3f;           ///< > 0

  using State = detail::Moments;
  [[nodiscard]] Eigen::VectorXf aggregate(const Eigen::VectorXf& global,
                                          std::span<const ClientUpdate> updates, State& state) const {
    detail::check_rates(learning_rate, 0, 0, tau);
    state.begin(global.size(), tau);
    state.first = weighted_mean(global.size(), updates);
    state.second.array() += state.first.array().square();
    return detail::adaptive_step(global, state, learning_rate, tau);
  }
};

static_assert(AggregationPolicy<FedAvgM> && PersistentState<FedAvgM::State>);
static_assert(AggregationPolicy<FedAdam> && PersistentState<FedAdam::State>);
static_assert(AggregationPolicy<FedYogi> && AggregationPolicy<FedAdagrad>);

}  // namespace offsite
