#pragma once
#include <Eigen/Core>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <span>

#include "offsite/aggregation/aggregation_policy.hpp"
#include "offsite/aggregation/pieces.hpp"
#include "offsite/aggregation/weighted_mean.hpp"

namespace offsite {

/// A weighted mean in the making: one running sum in double, however many updates there are in all.
class WeightedSum {
 public:
  /// Updates that are worth taking at a time: the sum then passes through the memory rarely enough not to count.
  static constexpr std::size_t kTogether = 16;

  /// Adds updates in their order, each scaled by its number in `scales` first, if there are any. What the sum becomes does
  /// not depend on how many come at a time, but several cost less.
  /// \throws ArgumentError as `check_updates` does. If a number was not finite, the sum is lost with it: it throws
  /// whatever is asked of it. Who would rather go on without such updates calls `check_updates` first.
  template <class Update>
  void add(std::span<const Update> updates, std::span<const float> scales = {}) {
    require(!lost_, kLost);
    const bool first = weight_ == 0;
    const auto size = !first || updates.empty() ? sum_.size() : updates.front().delta.size();
    detail::check_shapes(size, updates);
    if (first) sum_ = detail::long_vector<Eigen::VectorXd>(size);
    const auto addends = detail::addends_of(updates, scales);
    const bool finite =
        detail::for_each_piece(size, detail::kSums, [&](Eigen::Index begin, Eigen::Index count) {
          double* sums = sum_.data() + begin;
          if (first) std::fill_n(sums, count, 0.0);
          return detail::add_to(addends, begin, count, sums);
        });
    lost_ = !finite;
    if (lost_) check_updates(size, updates);
    lost_ = false;  // the weights were too large for it, which is not the updates' fault: the mean says so
    for (const auto& update : updates) weight_ += update.weight;
  }
  void add(const ClientUpdate& update) { add(std::span(&update, 1)); }

  /// The mean, to the bit that of `weighted_mean` of the same updates in the same order.
  [[nodiscard]] Eigen::VectorXf mean() const { return divided(nullptr); }
  /// global + the mean, in one pass. \throws ArgumentError unless the updates have as many numbers.
  [[nodiscard]] Eigen::VectorXf mean_onto(const Eigen::VectorXf& global) const {
    check_size(global.size());
    return divided(global.data());
  }
  /// \throws ArgumentError unless there are updates of `size` numbers.
  void check_size(Eigen::Index size) const {
    check();
    require(sum_.size() == size, "the updates have {} numbers, but {} are trained", sum_.size(), size);
  }

 private:
  static constexpr const char* kLost = "the sum was lost with an update that it refused";

  void check() const {
    require(!lost_, kLost);
    require(weight_ > 0, "there is no update to aggregate");
  }
  [[nodiscard]] Eigen::VectorXf divided(const float* base) const {
    check();
    auto next = detail::long_vector<Eigen::VectorXf>(sum_.size());
    detail::for_each_piece(sum_.size(), detail::kSums, [&](Eigen::Index begin, Eigen::Index count) {
      detail::divide(sum_.data() + begin, weight_, base == nullptr ? nullptr : base + begin,
                     next.data() + begin, count);
      return true;
    });
    return next;
  }

  Eigen::VectorXd sum_;
  double weight_ = 0;
  bool lost_ = false;
};

/// A policy that may take updates one by one or a few at a time, so that not all of them are in memory.
///
///   `p.streams()`                     whether this one does; some policies need all updates at once
///   `p.add(sum, updates)`             takes updates into a `WeightedSum`, a span of views of them or a single one
///   `p.finish(global, sum, state)`    what `aggregate` gives for the same updates in the same order, bit for bit
template <class P>
concept StreamingAggregation = AggregationPolicy<P> &&
    requires(const P& policy, WeightedSum& sum, std::span<const UpdateView> updates,
             const ClientUpdate& update, const Eigen::VectorXf& global, typename P::State& state) {
  { policy.streams() } -> std::same_as<bool>;
  policy.add(sum, updates);
  policy.add(sum, update);
  { policy.finish(global, sum, state) } -> std::same_as<Eigen::VectorXf>;
};

}  // namespace offsite
