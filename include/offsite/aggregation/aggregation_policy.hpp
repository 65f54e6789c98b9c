#pragma once
#include <Eigen/Core>

#include <cmath>
#include <concepts>
#include <span>
#include <vector>

#include "offsite/aggregation/pieces.hpp"
#include "offsite/core/error.hpp"

namespace offsite {

/// What a client returns: its trained tensors minus those it received, end to end in one vector, and its
/// weight.
struct ClientUpdate {
  Eigen::VectorXf delta;
  double weight = 1;  ///< number of different samples it trained on in this round, > 0
};

/// The same of numbers that lie elsewhere, as in a mapped file, and stay there while this is used.
struct UpdateView {
  Eigen::Map<const Eigen::VectorXf> delta;
  double weight = 1;  ///< > 0
};

/// Views of updates, which must outlive them.
[[nodiscard]] inline std::vector<UpdateView> views_of(std::span<const ClientUpdate> updates) {
  std::vector<UpdateView> views;
  views.reserve(updates.size());
  for (const auto& update : updates)
    views.push_back({{update.delta.data(), update.delta.size()}, update.weight});
  return views;
}

namespace detail {

template <class P>
concept KeepsState = std::default_initializable<typename P::State>;  // missing? struct State {};

// clang-format off: compilers print a requirement's own line, so its remedy stays on it
template <class P>
concept Aggregates = requires(const P& policy, const Eigen::VectorXf& global,
                              std::span<const ClientUpdate> updates, typename P::State& state) {
  {
    policy.aggregate(global, updates, state)
    } -> std::same_as<
        Eigen::
            VectorXf>;  // Eigen::VectorXf aggregate(const Eigen::VectorXf&, std::span<const ClientUpdate>, State&) const
};
// clang-format on

}  // namespace detail

/// Turns the clients' updates into the next global vector.
///
///   `P::State`                                what the policy remembers between rounds; default-constructed
///   at first `p.aggregate(global, updates, state)`     the next global vector, of the same length
///
/// Semantic requirements: updates of zeros leave the global vector as it is; the clients' order changes
/// rounding only.
template <class P>
concept AggregationPolicy = std::copyable<P> && detail::KeepsState<P> && detail::Aggregates<P>;

namespace detail {

/// All of `check_updates` but the numbers themselves, which policies look at while they compute with them.
template <class Update>
void check_shapes(Eigen::Index size, std::span<const Update> updates) {
  require(!updates.empty(), "there is no update to aggregate");
  for (std::size_t i = 0; i < updates.size(); ++i) {
    const auto& update = updates[i];
    require(update.delta.size() == size, "the update of client {} has {} numbers, but {} are trained", i,
            update.delta.size(), size);
    require(std::isfinite(update.weight) && update.weight > 0,
            "the update of client {} has weight {}, but weights are positive", i, update.weight);
  }
}

template <class Update>
void check_numbers(Eigen::Index size, std::span<const Update> updates) {
  check_shapes(size, updates);
  for (std::size_t i = 0; i < updates.size(); ++i)
    require(all_finite(updates[i].delta), "the update of client {} holds a number that is not finite", i);
}

}  // namespace detail

/// What every policy asks of its input.
/// \throws ArgumentError unless there is an update, all have `size` finite numbers and a positive finite
/// weight.
inline void check_updates(Eigen::Index size, std::span<const ClientUpdate> updates) {
  detail::check_numbers(size, updates);
}
inline void check_updates(Eigen::Index size, std::span<const UpdateView> updates) {
  detail::check_numbers(size, updates);
}

}  // namespace offsite
