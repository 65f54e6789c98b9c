#pragma once
#include <Eigen/Core>

#include <span>
#include <utility>

#include "offsite/aggregation/aggregation_policy.hpp"
#include "offsite/aggregation/pieces.hpp"
#include "offsite/aggregation/policy_state.hpp"
#include "offsite/aggregation/weighted_mean.hpp"

namespace offsite {

namespace detail {

/// A vector of the state: of `size` numbers, all `value` when it is new.
inline void begin_vector(Eigen::VectorXf& vector, Eigen::Index size, float value) {
  if (vector.size() == 0) vector.setConstant(size, value);
  require(vector.size() == size, "the policy remembers {} numbers, but {} are trained", vector.size(), size);
}

}  // namespace detail

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
    check();
    return step(global, weighted_mean(global.size(), updates), state);
  }
  [[nodiscard]] Eigen::VectorXf step(const Eigen::VectorXf& global, Eigen::VectorXf mean,
                                     State& state) const {
    check();
    detail::begin_vector(state.momentum, global.size(), 0);
    detail::for_each_piece(global.size(), detail::kPiece, [&](Eigen::Index begin, Eigen::Index count) {
      auto m = state.momentum.segment(begin, count);
      auto next = mean.segment(begin, count);
      m = momentum * m + next;
      next = global.segment(begin, count) + learning_rate * m;
      return true;
    });
    return mean;
  }

 private:
  void check() const {
    require(learning_rate > 0 && 0 <= momentum && momentum < 1,
            "learning_rate is {} and momentum {}, but they must be above 0, and in [0, 1)", learning_rate,
            momentum);
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
    begin_vector(first, size, 0);
    begin_vector(second, size, tau * tau);
  }
};

/// x + rate m / (sqrt(v) + tau), in place of `mean`, once `policy.advance(m, v, mean)` has moved both moments of every
/// piece. \throws ArgumentError if the policy's settings are out of range.
template <class Policy>
[[nodiscard]] Eigen::VectorXf adaptive_step(const Policy& policy, const Eigen::VectorXf& global,
                                            Eigen::VectorXf mean, Moments& state) {
  const float rate = policy.learning_rate, tau = policy.tau;
  require(rate > 0 && tau > 0, "learning_rate is {} and tau {}, but both must be positive", rate, tau);
  if constexpr (requires { policy.beta1; })
    require(0 <= policy.beta1 && policy.beta1 < 1 && 0 <= policy.beta2 && policy.beta2 < 1,
            "beta1 is {} and beta2 {}, but they must be in [0, 1)", policy.beta1, policy.beta2);
  state.begin(global.size(), tau);
  for_each_piece(global.size(), kPiece, [&](Eigen::Index begin, Eigen::Index count) {
    auto m = state.first.segment(begin, count).array();
    auto v = state.second.segment(begin, count).array();
    auto next = mean.segment(begin, count).array();
    policy.advance(m, v, next);
    next = global.segment(begin, count).array() + rate * m / (v.sqrt() + tau);
    return true;
  });
  return mean;
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
    return step(global, weighted_mean(global.size(), updates), state);
  }
  [[nodiscard]] Eigen::VectorXf step(const Eigen::VectorXf& global, Eigen::VectorXf mean,
                                     State& state) const {
    return detail::adaptive_step(*this, global, std::move(mean), state);
  }
  /// The rule: moves the moments of some coordinates towards the mean's `d` there.
  template <class Moment, class Mean>
  void advance(Moment& m, Moment& v, const Mean& d) const {
    m = beta1 * m + (1 - beta1) * d;
    v = beta2 * v + (1 - beta2) * d.square();
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
    return step(global, weighted_mean(global.size(), updates), state);
  }
  [[nodiscard]] Eigen::VectorXf step(const Eigen::VectorXf& global, Eigen::VectorXf mean,
                                     State& state) const {
    return detail::adaptive_step(*this, global, std::move(mean), state);
  }
  /// The rule: moves the moments of some coordinates towards the mean's `d` there.
  template <class Moment, class Mean>
  void advance(Moment& m, Moment& v, const Mean& d) const {
    m = beta1 * m + (1 - beta1) * d;
    v -= (1 - beta2) * d.square() * (v - d.square()).sign();
  }
};

/// Adagrad on the owner's side: v += D^2, no momentum (Reddi et al., arXiv:2003.00295).
struct FedAdagrad {
  float learning_rate = 0.1f;  ///< > 0
  float tau = 1e-3f;           ///< > 0

  using State = detail::Moments;
  [[nodiscard]] Eigen::VectorXf aggregate(const Eigen::VectorXf& global,
                                          std::span<const ClientUpdate> updates, State& state) const {
    return step(global, weighted_mean(global.size(), updates), state);
  }
  [[nodiscard]] Eigen::VectorXf step(const Eigen::VectorXf& global, Eigen::VectorXf mean,
                                     State& state) const {
    return detail::adaptive_step(*this, global, std::move(mean), state);
  }
  /// The rule: moves the moments of some coordinates towards the mean's `d` there.
  template <class Moment, class Mean>
  void advance(Moment& m, Moment& v, const Mean& d) const {
    m = d;
    v += d.square();
  }
};

static_assert(StepsByMean<FedAvgM> && PersistentState<FedAvgM::State>);
static_assert(StepsByMean<FedAdam> && PersistentState<FedAdam::State>);
static_assert(StepsByMean<FedYogi> && StepsByMean<FedAdagrad>);

}  // namespace offsite
