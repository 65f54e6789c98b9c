#pragma once
#include <Eigen/Core>

#include <concepts>
#include <cstddef>
#include <span>

#include "offsite/aggregation/aggregation_policy.hpp"
#include "offsite/aggregation/pieces.hpp"
#include "offsite/aggregation/weighted_mean.hpp"

namespace offsite {

/// A weighted mean in the making: a running sum in double, and a second one once several updates came at a time,
/// however many there are in all.
class WeightedSum {
 public:
  static constexpr std::size_t kTogether = 8;  ///< updates that one pass over the sum can take

  /// Adds updates in their order, each scaled by its number in `scales` first, if there are any. What the sum becomes does
  /// not depend on how many come at a time, but several cost less. \throws ArgumentError as `check_updates` does; then
  /// nothing was added.
  void add(std::span<const ClientUpdate> updates, std::span<const float> scales = {}) {
    const auto size = weight_ > 0 || updates.empty() ? sum_.size() : updates.front().delta.size();
    detail::check_shapes(size, updates);
    // A few are read twice. Of more, the sum is written elsewhere while they are looked at: refusing leaves the old one.
    const bool in_place = updates.size() < 3;
    if (in_place) check_updates(size, updates);
    auto& next = in_place ? sum_ : next_;
    if (next.size() != size) next = detail::long_vector<Eigen::VectorXd>(size);
    const bool finite =
        detail::add_to(weight_ > 0 ? sum_.data() : nullptr, detail::addends_of(updates, scales), next);
    if (!finite && !in_place) check_updates(size, updates);
    if (!in_place) sum_.swap(next_);
    for (const auto& update : updates) weight_ += update.weight;
  }
  void add(const ClientUpdate& update) { add(std::span(&update, 1)); }

  /// The mean, to the bit that of `weighted_mean` of the same updates in the same order.
  [[nodiscard]] Eigen::VectorXf mean() const {
    require(weight_ > 0, "there is no update to aggregate");
    auto mean = detail::long_vector<Eigen::VectorXf>(sum_.size());
    detail::for_each_piece(sum_.size(), detail::kPiece, [&](Eigen::Index begin, Eigen::Index count) {
      bool finite = true;
      const float* base = nullptr;
      simd::run<detail::DivideSum>(sum_.data() + begin, weight_, base, mean.data() + begin, count, &finite);
      return finite;
    });
    return mean;
  }

 private:
  Eigen::VectorXd sum_, next_;
  double weight_ = 0;
};

/// A policy that may take updates one by one or a few at a time, so that not all of them are in memory.
///
///   `p.streams()`                     whether this one does; some policies need all updates at once
///   `p.add(sum, updates)`             takes updates into a `WeightedSum`, a span of them or a single one
///   `p.finish(global, sum, state)`    what `aggregate` gives for the same updates in the same order, bit for bit
template <class P>
concept StreamingAggregation = AggregationPolicy<P> &&
    requires(const P& policy, WeightedSum& sum, std::span<const ClientUpdate> updates,
             const Eigen::VectorXf& global, typename P::State& state) {
  { policy.streams() } -> std::same_as<bool>;
  policy.add(sum, updates);
  policy.add(sum, updates.front());
  { policy.finish(global, sum, state) } -> std::same_as<Eigen::VectorXf>;
};

}  // namespace offsite
