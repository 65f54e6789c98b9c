#pragma once
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>

#include "offsite/core/error.hpp"
#include "offsite/core/sequences.hpp"
#include "offsite/ops/accumulate.hpp"

namespace offsite::ops {

/// Checks `ids` (N) int64 of packed rows against a vocabulary.
/// \throws ArgumentError naming the first id that is outside, or if there are not as many ids as rows.
inline void check_ids(const at::Tensor& ids, std::int64_t vocabulary, const Sequences& s) {
  require(ids.scalar_type() == at::kLong && ids.is_contiguous() && ids.numel() == s.rows(),
          "{} token ids of type {} were given for {} packed rows of int64", ids.numel(), ids.dtype().name(),
          s.rows());
  const auto* id = ids.const_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < ids.numel(); ++i)
    require(0 <= id[i] && id[i] < vocabulary, "token id {} of packed row {} is outside the vocabulary of {}",
            id[i], i, vocabulary);
}

/// \throws ArgumentError if a sequence is longer than the context.
inline void check_positions(const Sequences& s, std::int64_t context) {
  const auto* position = s.positions.const_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < s.rows(); ++i)
    require(0 <= position[i] && position[i] < context,
            "packed row {} has position {}, but the model's context holds {} tokens", i, position[i],
            context);
}

/// table[index[i]] += rows[i], for a float32 `table` (V, C), `rows` (N, C) and `index` (N) int64, all in
/// range.
///
/// Each column is summed by one thread in the order of rows: the result does not depend on the number of
/// threads.
inline void scatter_add_rows(const at::Tensor& table, const at::Tensor& index, const at::Tensor& rows) {
  if (table.scalar_type() != at::kFloat || table.stride(1) != 1 || rows.stride(1) != 1 ||
      !detail::is_fast(rows)) {
    table.index_add_(0, index, rows.to(table.scalar_type()));
    return;
  }
  constexpr std::int64_t kStrip = 64;
  const auto columns = table.size(1), strips = (columns + kStrip - 1) / kStrip;
  const auto* at = index.const_data_ptr<std::int64_t>();
  auto* to = table.mutable_data_ptr<float>();
  with_type(rows, [&]<class T>(T*) {
    const auto* from = rows.const_data_ptr<T>();
    at::parallel_for(0, strips, 1, [&](std::int64_t begin, std::int64_t end) {
      const auto first = begin * kStrip, last = std::min(end * kStrip, columns);
      for (std::int64_t i = 0; i < rows.size(0); ++i)
        simd::run<detail::AccumulateKernel>(to + at[i] * table.stride(0) + first,
                                            from + i * rows.stride(0) + first, last - first);
    });
  });
}

}  // namespace offsite::ops
