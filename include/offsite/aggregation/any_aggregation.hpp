#pragma once
#include <Eigen/Core>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "offsite/aggregation/aggregation_policy.hpp"
#include "offsite/aggregation/coordinate_wise.hpp"
#include "offsite/aggregation/fed_avg.hpp"
#include "offsite/aggregation/fed_prox.hpp"
#include "offsite/aggregation/geometric_median.hpp"
#include "offsite/aggregation/krum.hpp"
#include "offsite/aggregation/norm_bounded.hpp"
#include "offsite/aggregation/policy_state.hpp"
#include "offsite/aggregation/server_optimizers.hpp"
#include "offsite/aggregation/streaming.hpp"
#include "offsite/aggregation/weighted_mean.hpp"

namespace offsite {

/// Any of the ready aggregation policies, for programs that are told which while they run.
struct AnyAggregation {
  using Policy = std::variant<FedAvg, FedProx, FedAvgM, FedAdam, FedYogi, FedAdagrad, TrimmedMean,
                              CoordinateMedian, GeometricMedian, MultiKrum, Bulyan>;

  Policy policy{};
  float max_norm = std::numeric_limits<float>::infinity();  ///< longer updates are scaled down to it, > 0

  /// What any of the policies remembers; those of others stay empty.
  struct State {
    FedAvgM::State momentum{};
    FedAdam::State moments{};
    template <class F>
    void visit(F&& f) {
      momentum.visit(f);
      moments.visit(f);
    }
  };

  /// \throws ArgumentError as the chosen policy does.
  [[nodiscard]] Eigen::VectorXf aggregate(const Eigen::VectorXf& global,
                                          std::span<const ClientUpdate> updates, State& state) const;

  /// Whether it sees no more of the updates than their weighted mean; see `StreamingAggregation`.
  [[nodiscard]] bool streams() const {
    return std::visit([]<class P>(const P&) { return StepsByMean<P>; }, policy);
  }
  /// Takes a few updates or views of them. \throws ArgumentError as `WeightedSum::add` does.
  template <class Update>
  void add(WeightedSum& sum, std::span<const Update> updates) const {
    sum.add(updates, scales_of(updates));
  }
  void add(WeightedSum& sum, const ClientUpdate& update) const { add(sum, std::span(&update, 1)); }
  /// \throws ArgumentError as the chosen policy does, and as `WeightedSum::mean_onto`.
  template <class Update = UpdateView>
  [[nodiscard]] Eigen::VectorXf finish(const Eigen::VectorXf& global, const WeightedSum& sum, State& state,
                                       std::span<const Update> last = {}) const;

  /// What the clients of a round train with, as `TrainingOptions::proximal_mu`; 0 but for FedProx.
  [[nodiscard]] double proximal_mu() const {
    const auto* prox = std::get_if<FedProx>(&policy);
    return prox == nullptr ? 0 : prox->mu;
  }

  /// Updates without which the policy cannot work.
  [[nodiscard]] std::int64_t least_updates() const {
    if (const auto* krum = std::get_if<MultiKrum>(&policy)) return 2 * krum->faulty + 3;
    if (const auto* bulyan = std::get_if<Bulyan>(&policy)) return 4 * bulyan->faulty + 3;
    return 1;
  }

  /// The policy in the words that `parse` reads, with all settings.
  [[nodiscard]] std::string text() const;

  /// Reads `NAME`, `NAME:VALUE` or `NAME:SETTING=VALUE,...`, with `norm:MAX+` before it if updates are to be bounded
  /// first: `fedavg`, `trimmed_mean:0.1`, `norm:10+fedadam:learning_rate=0.01`. A value without a name is the policy's
  /// first setting; those that are left out have their defaults.
  /// \throws ArgumentError saying what is wrong with it, settings out of range included.
  [[nodiscard]] static AnyAggregation parse(std::string_view text);

 private:
  [[nodiscard]] bool bounds_norms() const { return !std::isinf(max_norm) || max_norm < 0; }
  /// What bounds the updates' norms; none if nothing has to.
  template <class Update>
  [[nodiscard]] std::vector<float> scales_of(std::span<const Update> updates) const {
    if (!bounds_norms() || updates.empty()) return {};
    return detail::bounding_scales(updates.front().delta.size(), updates, max_norm);
  }
};

namespace detail {

// Calls f(name, member) for each of a policy's settings, the one that people mean most first.
template <class F>
void visit_settings(FedAvg&, F&&) {}
template <class F>
void visit_settings(CoordinateMedian&, F&&) {}
template <class F>
void visit_settings(FedProx& p, F&& f) {
  f("mu", p.mu);
}
template <class F>
void visit_settings(FedAvgM& p, F&& f) {
  f("learning_rate", p.learning_rate), f("momentum", p.momentum);
}
template <class P, class F>
requires std::same_as<P, FedAdam> || std::same_as<P, FedYogi>
void visit_settings(P& p, F&& f) {
  f("learning_rate", p.learning_rate), f("beta1", p.beta1), f("beta2", p.beta2), f("tau", p.tau);
}
template <class F>
void visit_settings(FedAdagrad& p, F&& f) {
  f("learning_rate", p.learning_rate), f("tau", p.tau);
}
template <class F>
void visit_settings(TrimmedMean& p, F&& f) {
  f("share", p.share);
}
template <class F>
void visit_settings(GeometricMedian& p, F&& f) {
  f("iterations", p.iterations), f("smoothing", p.smoothing);
}
template <class F>
void visit_settings(MultiKrum& p, F&& f) {
  f("faulty", p.faulty), f("keep", p.keep);
}
template <class F>
void visit_settings(Bulyan& p, F&& f) {
  f("faulty", p.faulty);
}

using NamedAggregation = std::pair<std::string_view, AnyAggregation::Policy>;

/// The policies under the names of the command line, as they are without settings.
[[nodiscard]] inline std::array<NamedAggregation, 12> ready_aggregations() {
  return {{{"fedavg", FedAvg{}},
           {"fedprox", FedProx{}},
           {"fedavgm", FedAvgM{}},
           {"fedadam", FedAdam{}},
           {"fedyogi", FedYogi{}},
           {"fedadagrad", FedAdagrad{}},
           {"trimmed_mean", TrimmedMean{}},
           {"coordinate_median", CoordinateMedian{}},
           {"geometric_median", GeometricMedian{}},
           {"multi_krum", MultiKrum{}},
           {"krum", MultiKrum{1, 1}},
           {"bulyan", Bulyan{}}}};
}

template <class Number>
void read_aggregation_setting(std::string_view policy, std::string_view name, std::string_view value,
                              Number& to) {
  const auto [stop, error] = std::from_chars(value.data(), value.data() + value.size(), to);
  require(error == std::errc{} && stop == value.data() + value.size(),
          "{} of the aggregation {} is '{}', which is no such number", name, policy, value);
}

/// The part of `text` before `end`; takes both off.
[[nodiscard]] inline std::string_view cut_before(std::string_view& text, char end) {
  const auto stop = text.find(end);
  const auto part = text.substr(0, stop);
  text = stop == text.npos ? std::string_view() : text.substr(stop + 1);
  return part;
}

inline void read_aggregation_settings(std::string_view policy, std::string_view text,
                                      AnyAggregation::Policy& chosen) {
  while (!text.empty()) {
    auto value = cut_before(text, ',');
    const bool named = value.find('=') != value.npos;
    const auto name = named ? cut_before(value, '=') : std::string_view();
    bool found = false;
    std::visit(
        [&](auto& p) {
          visit_settings(p, [&](std::string_view setting, auto& member) {
            if (found || (named && setting != name)) return;
            found = true;
            read_aggregation_setting(policy, setting, value, member);
          });
        },
        chosen);
    require(found, "the aggregation {} has no setting '{}'", policy, named ? name : value);
  }
}

/// Tries the policy on updates of one number, so that settings out of range are found before a round was trained for it.
inline void try_aggregation(const AnyAggregation& aggregation) {
  constexpr std::int64_t kMostFaulty = 100, kMostKept = 1000;
  std::int64_t faulty = 0, keep = 0;
  if (const auto* krum = std::get_if<MultiKrum>(&aggregation.policy))
    faulty = krum->faulty, keep = krum->keep;
  if (const auto* bulyan = std::get_if<Bulyan>(&aggregation.policy)) faulty = bulyan->faulty;
  require(0 <= faulty && faulty <= kMostFaulty, "faulty is {}, but it must be 0 to {}", faulty, kMostFaulty);
  require(0 <= keep && keep <= kMostKept, "keep is {}, but it must be 0 to {}", keep, kMostKept);
  const auto count = static_cast<std::size_t>(std::max(keep, aggregation.least_updates()));
  const std::vector<ClientUpdate> updates(count, {Eigen::VectorXf::Zero(1), 1});
  AnyAggregation::State state;
  (void)aggregation.aggregate(Eigen::VectorXf::Zero(1), updates, state);
}

/// The shortest text that reads as this number again.
template <class Number>
[[nodiscard]] std::string shortest_text(Number number) {
  std::array<char, 32> text{};
  const auto end = std::to_chars(text.data(), text.data() + text.size(), number).ptr;
  return {text.data(), end};
}

}  // namespace detail

namespace detail {

/// The part of `state` that is the policy's.
template <class P>
[[nodiscard]] decltype(auto) state_of(AnyAggregation::State& state) {
  if constexpr (std::same_as<typename P::State, FedAvgM::State>)
    return (state.momentum);
  else if constexpr (std::same_as<typename P::State, FedAdam::State>)
    return (state.moments);
  else
    return typename P::State{};
}

}  // namespace detail

inline Eigen::VectorXf AnyAggregation::aggregate(const Eigen::VectorXf& global,
                                                 std::span<const ClientUpdate> updates, State& state) const {
  return std::visit(
      [&]<class P>(const P& chosen) {
        auto&& own = detail::state_of<P>(state);
        return bounds_norms() ? detail::aggregate_bounded(chosen, global, updates, max_norm, own)
                              : chosen.aggregate(global, updates, own);
      },
      policy);
}

template <class Update>
Eigen::VectorXf AnyAggregation::finish(const Eigen::VectorXf& global, const WeightedSum& sum, State& state,
                                       std::span<const Update> last) const {
  const auto scales = scales_of(last);
  return std::visit(
      [&]<class P>(const P& chosen) -> Eigen::VectorXf {
        auto&& own = detail::state_of<P>(state);
        if constexpr (requires { chosen.finish(global, sum, own, last, scales); })
          return chosen.finish(global, sum, own, last, std::span<const float>(scales));
        else if constexpr (StepsByMean<P>) {
          auto mean = sum.mean(last, scales);
          require(mean.size() == global.size(), "the updates have {} numbers, but {} are trained",
                  mean.size(), global.size());
          return chosen.step(global, std::move(mean), own);
        } else
          throw ArgumentError("this policy needs all updates at once, not their sum");
      },
      policy);
}

inline std::string AnyAggregation::text() const {
  std::string text, settings;
  if (bounds_norms()) text = "norm:" + detail::shortest_text(max_norm) + "+";
  for (auto [name, ready] : detail::ready_aggregations())
    if (ready.index() == policy.index()) {
      const auto* krum = std::get_if<MultiKrum>(&policy);
      if ((name == "krum") == (krum != nullptr && krum->keep == 1)) text += name;
    }
  auto copy = policy;
  std::visit(
      [&](auto& p) {
        detail::visit_settings(p, [&](std::string_view name, const auto& value) {
          settings += (settings.empty() ? ":" : ",") + std::string(name) + "=" + detail::shortest_text(value);
        });
      },
      copy);
  return text + settings;
}

inline AnyAggregation AnyAggregation::parse(std::string_view text) {
  AnyAggregation result;
  const auto whole = text;
  if (text.starts_with("norm:")) {
    auto bound = detail::cut_before(text, '+');
    (void)detail::cut_before(bound, ':');
    detail::read_aggregation_setting("norm", "the bound", bound, result.max_norm);
    require(result.max_norm > 0, "the aggregation '{}' bounds norms by {}, which must be positive", whole,
            result.max_norm);
    if (text.empty()) text = "fedavg";
  }
  const auto name = detail::cut_before(text, ':');
  bool found = false;
  std::string known;
  for (const auto& [ready, policy] : detail::ready_aggregations()) {
    known += (known.empty() ? "" : ", ") + std::string(ready);
    if (ready != name) continue;
    found = true;
    result.policy = policy;
  }
  require(found, "there is no aggregation '{}'; there are {}, each with norm:MAX+ before it if wanted", name,
          known);
  detail::read_aggregation_settings(name, text, result.policy);
  detail::try_aggregation(result);
  return result;
}

static_assert(StreamingAggregation<AnyAggregation> && PersistentState<AnyAggregation::State>);

}  // namespace offsite
