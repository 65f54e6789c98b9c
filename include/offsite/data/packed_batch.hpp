#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/core/sequences.hpp"
#include "offsite/data/sample.hpp"

namespace offsite {

/// S sequences end to end in N packed rows, and the M rows whose next token is scored.
struct PackedBatch {
  at::Tensor ids;          ///< (N) int64
  Sequences sequences;     ///< S sequences of N rows; `samples` holds Sample::number
  at::Tensor scored_rows;  ///< (M) int64, ascending
  at::Tensor targets;      ///< (M) int64, the token after each scored row
};

/// Lays the samples `which` of `all` end to end, in that order: a sample of n tokens becomes n - 1 rows.
/// O(N). \throws ArgumentError if a number in `which` is out of range, or a sample scores none of its tokens
/// or its first.
[[nodiscard]] inline PackedBatch pack(std::span<const Sample> all, std::span<const std::int64_t> which) {
  std::vector<std::int64_t> lengths, numbers;
  lengths.reserve(which.size());
  numbers.reserve(which.size());
  std::int64_t rows = 0, scored = 0;
  for (const auto index : which) {
    require(0 <= index && index < static_cast<std::int64_t>(all.size()),
            "sample {} was asked for, but there are {} samples", index, all.size());
    const auto& sample = all[static_cast<std::size_t>(index)];
    require(
        0 < sample.scored_from && sample.scored() > 0,
        "sample {} has {} tokens and is scored from token {}, but that must lie between 1 and the last token",
        sample.number, sample.tokens.size(), sample.scored_from);
    lengths.push_back(sample.rows());
    numbers.push_back(sample.number);
    rows += sample.rows();
    scored += sample.scored();
  }

  PackedBatch batch{at::empty({rows}, at::kLong), Sequences::of(lengths), at::empty({scored}, at::kLong),
                    at::empty({scored}, at::kLong)};
  batch.sequences.samples = std::move(numbers);
  auto* id = batch.ids.mutable_data_ptr<std::int64_t>();
  auto* scored_row = batch.scored_rows.mutable_data_ptr<std::int64_t>();
  auto* target = batch.targets.mutable_data_ptr<std::int64_t>();
  std::int64_t begin = 0;
  for (const auto index : which) {
    const auto& sample = all[static_cast<std::size_t>(index)];
    id = std::copy(sample.tokens.begin(), sample.tokens.end() - 1, id);
    for (std::int64_t t = sample.scored_from; t <= sample.rows(); ++t) *scored_row++ = begin + t - 1;
    target = std::copy(sample.tokens.begin() + sample.scored_from, sample.tokens.end(), target);
    begin += sample.rows();
  }
  return batch;
}

/// All samples in one batch, in their order.
[[nodiscard]] inline PackedBatch pack(std::span<const Sample> all) {
  std::vector<std::int64_t> which(all.size());
  for (std::size_t i = 0; i < which.size(); ++i) which[i] = static_cast<std::int64_t>(i);
  return pack(all, which);
}

}  // namespace offsite
