#pragma once
#include <string_view>
#include <variant>

#include "offsite/aggregation/fed_avg.hpp"

namespace offsite {

/// Any of the ready aggregation policies, for programs that are told which while they run.
struct AnyAggregation {
  std::variant<FedAvg> policy{};

  /// The chosen policy's own state.
  struct State {
    std::variant<FedAvg::State> state{};
  };

  /// \throws ArgumentError as the chosen policy does.
  [[nodiscard]] Eigen::VectorXf aggregate(const Eigen::VectorXf& global,
                                          std::span<const ClientUpdate> updates, State& state) const {
    return std::visit(
        [&]<class Policy>(const Policy& chosen) {
          if (!std::holds_alternative<typename Policy::State>(state.state))
            state.state = typename Policy::State{};
          return chosen.aggregate(global, updates, std::get<typename Policy::State>(state.state));
        },
        policy);
  }

  /// \throws ArgumentError for an unknown name.
  [[nodiscard]] static AnyAggregation named(std::string_view name) {
    require(name == "fedavg", "there is no aggregation '{}'; the aggregations are fedavg", name);
    return {FedAvg{}};
  }
};

static_assert(AggregationPolicy<AnyAggregation>);

}  // namespace offsite
