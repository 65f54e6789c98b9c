#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/core/sequences.hpp"

namespace offsite {

/// Packed rows of which some predict tokens to be scored; a row may predict several.
struct ScoredRows {
  /// One token to be scored.
  struct Target {
    std::int64_t row = 0;    ///< the packed row that predicts it
    std::int64_t token = 0;  ///< its id
    std::int64_t owner = 0;  ///< what its log-probability belongs to; the caller's own number
  };
  at::Tensor ids;  ///< (N) int64
  Sequences sequences;
  at::Tensor rows;                     ///< (M) int64: the rows of all targets, ascending, each once
  std::vector<Target> targets;         ///< ascending by row
  std::vector<std::int64_t> row_ends;  ///< M numbers: where the targets of each of `rows` end
};

/// Collects sequences and the tokens that they are to predict.
class RowPacker {
 public:
  /// Appends a sequence and returns its first row. \param parent  see `Sequences`; -1 = none
  std::int64_t add(std::span<const std::int32_t> tokens, std::int64_t parent = -1) {
    const auto begin = static_cast<std::int64_t>(ids_.size());
    ids_.insert(ids_.end(), tokens.begin(), tokens.end());
    lengths_.push_back(static_cast<std::int64_t>(tokens.size()));
    parents_.push_back(parent);
    shares_ |= parent >= 0;
    return begin;
  }
  void score(std::int64_t row, std::int64_t token, std::int64_t owner) {
    targets_.push_back({row, token, owner});
  }
  [[nodiscard]] std::int64_t sequences() const { return static_cast<std::int64_t>(lengths_.size()); }

  [[nodiscard]] ScoredRows finish() && {
    ScoredRows result;
    result.sequences = Sequences::of(lengths_, shares_ ? std::move(parents_) : std::vector<std::int64_t>{});
    result.ids = at::empty({static_cast<std::int64_t>(ids_.size())}, at::kLong);
    std::copy(ids_.begin(), ids_.end(), result.ids.mutable_data_ptr<std::int64_t>());
    std::stable_sort(targets_.begin(), targets_.end(),
                     [](const auto& a, const auto& b) { return a.row < b.row; });
    std::vector<std::int64_t> rows;
    for (std::size_t i = 0; i < targets_.size(); ++i) {
      if (rows.empty() || rows.back() != targets_[i].row) {
        rows.push_back(targets_[i].row);
        result.row_ends.push_back(0);
      }
      result.row_ends.back() = static_cast<std::int64_t>(i) + 1;
    }
    result.rows = at::empty({static_cast<std::int64_t>(rows.size())}, at::kLong);
    std::copy(rows.begin(), rows.end(), result.rows.mutable_data_ptr<std::int64_t>());
    result.targets = std::move(targets_);
    return result;
  }

 private:
  std::vector<std::int64_t> ids_, lengths_, parents_;
  std::vector<ScoredRows::Target> targets_;
  bool shares_ = false;
};

/// Divides items of so many rows into batches of at most `budget` rows, or one item: the longest first, so that a lack
/// of memory shows at once and the time left is not underestimated. O(n log n).
[[nodiscard]] inline std::vector<std::vector<std::int64_t>> plan_rows(std::span<const std::int64_t> rows,
                                                                      std::int64_t budget) {
  std::vector<std::int64_t> order(rows.size());
  std::iota(order.begin(), order.end(), 0);
  const auto rows_of = [&](std::int64_t i) { return rows[static_cast<std::size_t>(i)]; };
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return rows_of(a) > rows_of(b); });
  std::vector<std::vector<std::int64_t>> batches;
  std::int64_t room = 0;
  for (const auto i : order) {
    if (batches.empty() || rows_of(i) > room) {
      batches.emplace_back();
      room = budget;
    }
    batches.back().push_back(i);
    room -= rows_of(i);
  }
  return batches;
}

}  // namespace offsite
