#pragma once
#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/core/random.hpp"
#include "offsite/data/sample.hpp"

namespace offsite {

/// How an epoch is divided into batches.
struct BatchOptions {
  std::int64_t batch_size = 8;    ///< samples a batch, > 0
  std::int64_t batch_tokens = 0;  ///< if > 0, a budget of packed rows a batch instead of `batch_size`
  bool shuffle = true;            ///< a new order each epoch; otherwise file order
  std::uint64_t seed = 42;        ///< with the epoch's number it fixes the order
};

namespace detail {

inline constexpr std::uint64_t kOrderPurpose =
    0x6f72646572;                                // keeps orders apart from other uses of the same seed
inline constexpr std::size_t kLookAhead = 1024;  // samples searched for one that fills a gap

inline std::vector<std::int64_t> epoch_order(std::int64_t count, const BatchOptions& options,
                                             std::int64_t epoch) {
  if (options.shuffle) return permutation(count, derive_key(options.seed, kOrderPurpose, epoch));
  std::vector<std::int64_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  return order;
}

/// Fills batches in the given order; where the next sample does not fit, those of the next `look_ahead`
/// samples that fill the gap best are taken forward. So no sample is put off, and the order stays random up
/// to the last gap.
inline std::vector<std::vector<std::int64_t>> fill_budget(std::span<const Sample> samples,
                                                          const std::vector<std::int64_t>& order,
                                                          std::int64_t budget, std::size_t look_ahead) {
  const auto rows_at = [&](std::size_t place) {
    return samples[static_cast<std::size_t>(order[place])].rows();
  };
  // Sorted by rows, and among equals the earliest place last: that is where a search from above ends.
  std::set<std::pair<std::int64_t, std::int64_t>> window;
  std::vector<bool> taken(order.size());
  std::size_t next = 0, seen = 0;

  std::vector<std::vector<std::int64_t>> batches;
  std::int64_t gap = 0;
  const auto take = [&](std::size_t place) {
    window.erase({rows_at(place), -static_cast<std::int64_t>(place)});
    taken[place] = true;
    batches.back().push_back(order[place]);
    gap -= rows_at(place);
  };
  for (;;) {
    while (next < order.size() && taken[next]) ++next;
    if (next == order.size()) return batches;
    for (; seen < order.size() && window.size() < look_ahead; ++seen)
      window.emplace(rows_at(seen), -static_cast<std::int64_t>(seen));
    if (batches.empty() || rows_at(next) > gap) {
      if (!batches.empty()) {
        auto best = window.lower_bound({gap + 1, std::numeric_limits<std::int64_t>::min()});
        if (best != window.begin()) {
          take(static_cast<std::size_t>(-std::prev(best)->second));
          continue;
        }
      }
      batches.emplace_back();
      gap = budget;
    }
    take(next);
  }
}

}  // namespace detail

/// Divides the samples into the batches of one epoch: each sample exactly once, the same for the same seed
/// and epoch.
///
/// With `batch_size` B: consecutive groups of B of the (shuffled) order, the last one smaller. With
/// `batch_tokens`: no batch has more packed rows than the budget, unless one sample alone has; shuffled, gaps
/// are filled with samples taken forward from the next 1,024, in file order they stay open. O(n log n).
/// \throws ArgumentError for a batch size that is not positive, a negative budget or a negative epoch.
[[nodiscard]] inline std::vector<std::vector<std::int64_t>> plan_epoch(std::span<const Sample> samples,
                                                                       const BatchOptions& options,
                                                                       std::int64_t epoch) {
  require(options.batch_tokens >= 0, "batch_tokens is {}, but a budget of rows cannot be negative",
          options.batch_tokens);
  require(options.batch_tokens > 0 || options.batch_size > 0,
          "batch_size is {}, but a batch holds at least one sample", options.batch_size);
  require(epoch >= 0, "epoch {} was asked for, but epochs count from 0", epoch);

  const auto order = detail::epoch_order(static_cast<std::int64_t>(samples.size()), options, epoch);
  if (options.batch_tokens > 0)
    return detail::fill_budget(samples, order, options.batch_tokens,
                               options.shuffle ? detail::kLookAhead : 0);
  std::vector<std::vector<std::int64_t>> batches;
  const auto size = std::min(order.size(), static_cast<std::size_t>(options.batch_size));
  for (std::size_t begin = 0; begin < order.size(); begin += size) {
    const auto end = std::min(begin + size, order.size());
    batches.emplace_back(order.begin() + static_cast<std::ptrdiff_t>(begin),
                         order.begin() + static_cast<std::ptrdiff_t>(end));
  }
  return batches;
}

/// Divides a batch, in its order, into passes of nearly the same number of packed rows, and at most `limit` where no
/// sample alone has more. \param limit  0 = one pass
[[nodiscard]] inline std::vector<std::span<const std::int64_t>> passes_of(std::span<const Sample> samples,
                                                                          std::span<const std::int64_t> batch,
                                                                          std::int64_t limit) {
  const auto rows_of = [&](std::int64_t i) { return samples[static_cast<std::size_t>(i)].rows(); };
  std::int64_t left = 0;
  for (const auto i : batch) left += rows_of(i);
  if (limit == 0 || left <= limit) return {batch};
  std::vector<std::span<const std::int64_t>> passes;
  for (std::size_t begin = 0, end = 0; begin < batch.size(); begin = end) {
    const auto number = (left + limit - 1) / limit, fair = (left + number - 1) / number;
    std::int64_t rows = 0;
    do rows += rows_of(batch[end++]);
    while (end < batch.size() && rows < fair && rows + rows_of(batch[end]) <= limit);
    passes.push_back(batch.subspan(begin, end - begin));
    left -= rows;
  }
  return passes;
}

}  // namespace offsite
