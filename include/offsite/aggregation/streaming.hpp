#pragma once
#include <Eigen/Core>

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
          return detail::add_to(first ? nullptr : sums, addends, begin, count, sums);
        });
    lost_ = !finite;
    if (lost_) check_updates(size, updates);
    lost_ = false;  // the weights were too large for it, which is not the updates' fault: the mean says so
    for (const auto& update : updates) weight_ += update.weight;
  }
  void add(const ClientUpdate& update) { add(std::span(&update, 1)); }

  /// The mean with some more updates, to the bit that of `weighted_mean` of all in this order. These pass through
  /// no sum in memory: of a few updates in all there need be none.
  /// \throws ArgumentError as `add` does; the sum stays as it is.
  template <class Update = UpdateView>
  [[nodiscard]] Eigen::VectorXf mean(std::span<const Update> last = {},
                                     std::span<const float> scales = {}) const {
    return mean_onto(nullptr, weight_ > 0 || last.empty() ? sum_.size() : last.front().delta.size(), last,
                     scales);
  }
  /// global + the mean, in one pass.
  /// \throws ArgumentError as `mean` does, and unless the updates have as many numbers.
  template <class Update = UpdateView>
  [[nodiscard]] Eigen::VectorXf mean_onto(const Eigen::VectorXf& global, std::span<const Update> last = {},
                                          std::span<const float> scales = {}) const {
    return mean_onto(global.data(), global.size(), last, scales);
  }

 private:
  static constexpr const char* kLost = "the sum was lost with an update that it refused";

  template <class Update>
  [[nodiscard]] Eigen::VectorXf mean_onto(const float* base, Eigen::Index size, std::span<const Update> last,
                                          std::span<const float> scales) const {
    require(!lost_, kLost);
    const bool empty = weight_ == 0;
    require(empty || sum_.size() == size, "the updates have {} numbers, but {} are trained", sum_.size(),
            size);
    if (empty || !last.empty()) detail::check_shapes(size, last);
    double total = weight_;
    for (const auto& update : last) total += update.weight;
    auto next = detail::long_vector<Eigen::VectorXf>(size);
    const bool finite =
        detail::mean_of(empty ? nullptr : sum_.data(), detail::addends_of(last, scales), total, base, next);
    if (!finite && !last.empty()) check_updates(size, last);
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
///   `p.finish(global, sum, state, updates)`   the same with some more, the last ones, which cost less so than in the sum
template <class P>
concept StreamingAggregation = AggregationPolicy<P> &&
    requires(const P& policy, WeightedSum& sum, std::span<const UpdateView> updates,
             const ClientUpdate& update, const Eigen::VectorXf& global, typename P::State& state) {
  { policy.streams() } -> std::same_as<bool>;
  policy.add(sum, updates);
  policy.add(sum, update);
  { policy.finish(global, sum, state) } -> std::same_as<Eigen::VectorXf>;
  { policy.finish(global, sum, state, updates) } -> std::same_as<Eigen::VectorXf>;
};

}  // namespace offsite
