#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <cstdint>
#include <span>
#include <vector>

#include "offsite/core/error.hpp"

namespace offsite {

/// Where each of S sequences begins among N packed rows, and every row's position in its own sequence.
///
/// A sequence may continue another one, its parent: then its rows also see all rows of the parent, which comes before
/// it, and their positions go on from there. So a prefix that several continuations share is computed once.
struct Sequences {
  std::vector<std::int64_t> offsets{0};  ///< S + 1 row numbers, ascending; the last is N
  std::vector<std::int64_t> parents;     ///< S sequence numbers, -1 for none; empty if no sequence has one
  std::vector<std::int64_t> samples;     ///< S sample numbers: what random masks are keyed by; empty = 0 .. S-1
  at::Tensor positions;                  ///< (N) int64

  [[nodiscard]] std::int64_t count() const { return static_cast<std::int64_t>(offsets.size()) - 1; }
  [[nodiscard]] std::int64_t rows() const { return offsets.back(); }
  [[nodiscard]] std::int64_t begin(std::int64_t s) const { return offsets[static_cast<std::size_t>(s)]; }
  [[nodiscard]] std::int64_t length(std::int64_t s) const { return begin(s + 1) - begin(s); }
  [[nodiscard]] std::int64_t parent(std::int64_t s) const {
    return parents.empty() ? -1 : parents[static_cast<std::size_t>(s)];
  }
  /// Rows of the parent, which come before this sequence's own: its first position.
  [[nodiscard]] std::int64_t prefix(std::int64_t s) const { return parent(s) < 0 ? 0 : length(parent(s)); }
  [[nodiscard]] std::int64_t sample(std::int64_t s) const {
    return samples.empty() ? s : samples[static_cast<std::size_t>(s)];
  }

  /// Sequences of these lengths end to end; `parents` is empty or holds for each sequence -1 or an earlier one
  /// that has no parent itself.
  /// \throws ArgumentError if a length is not positive or a parent is none of those.
  [[nodiscard]] static Sequences of(std::span<const std::int64_t> lengths, std::vector<std::int64_t> parents = {}) {
    require(parents.empty() || parents.size() == lengths.size(), "{} parents were given for {} sequences",
            parents.size(), lengths.size());
    Sequences result;
    result.offsets.reserve(lengths.size() + 1);
    for (const auto n : lengths) {
      require(n > 0, "a sequence has length {}, but lengths are positive", n);
      result.offsets.push_back(result.offsets.back() + n);
    }
    for (std::size_t s = 0; s < parents.size(); ++s) {
      const auto p = parents[s];
      require(p == -1 || (0 <= p && p < static_cast<std::int64_t>(s) && parents[static_cast<std::size_t>(p)] == -1),
              "sequence {} has parent {}, but a parent is an earlier sequence without a parent", s, p);
    }
    result.parents = std::move(parents);
    result.positions = at::empty({result.rows()}, at::kLong);
    auto* position = result.positions.mutable_data_ptr<std::int64_t>();
    for (std::int64_t s = 0; s < result.count(); ++s)
      for (std::int64_t i = 0; i < result.length(s); ++i) *position++ = result.prefix(s) + i;
    return result;
  }
};

}  // namespace offsite
