#pragma once
#include <cstdint>
#include <cstring>

#include "offsite/ops/simd.hpp"

// How numbers change places in registers.

namespace offsite::ops::detail {

/// The bits of sixteen numbers of bfloat16.
using SixteenHalves = simd::Lanes<std::uint16_t>::Raw;

/// Numbers of two rows side by side, as the instructions for pairs want them: to[j] holds even[j] and odd[j].
[[gnu::always_inline]] inline void store_pairs(std::uint32_t* to, const SixteenHalves& even,
                                               const SixteenHalves& odd) {
  const auto pairs =
      __builtin_shufflevector(even, odd, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23, 8, 24, 9, 25,
                              10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  std::memcpy(to, &pairs, sizeof pairs);
}

/// (16, 16) cells -> (16, 16), rows `from_ld` and `to_ld` cells apart. In four rounds that interleave rows i and i + 8: each
/// moves the highest bit of a cell's row to the end of its column, and that of its column to the end of its row.
template <class Cell>
[[gnu::always_inline]] inline void transpose_block(const Cell* from, std::int64_t from_ld, Cell* to,
                                                   std::int64_t to_ld) {
  using Sixteen [[gnu::vector_size(sizeof(Cell) * simd::kLanes)]] = Cell;
  Sixteen rows[4 + 1][simd::kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < simd::kLanes; ++i) std::memcpy(&rows[0][i], from + i * from_ld, sizeof(Sixteen));
#pragma GCC unroll 4
  for (int round = 0; round < 4; ++round)
#pragma GCC unroll 8
    for (int i = 0; i < simd::kLanes / 2; ++i) {
      const Sixteen a = rows[round][i], b = rows[round][i + simd::kLanes / 2];
      rows[round + 1][2 * i] =
          __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
      rows[round + 1][2 * i + 1] =
          __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    }
#pragma GCC unroll 16
  for (int i = 0; i < simd::kLanes; ++i) std::memcpy(to + i * to_ld, &rows[4][i], sizeof(Sixteen));
}

}  // namespace offsite::ops::detail
