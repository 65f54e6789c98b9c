#pragma once
#include <cstdint>
#include <cstring>

#include "offsite/ops/interleave.hpp"
#include "offsite/ops/simd.hpp"

namespace offsite::ops::detail {

/// Copies between packed rows of any type and float32 rows whose width is padded with zeros to whole vectors.
struct PaddedRows {
  /// Rows `rows` .. `padded_rows` - 1 become zero.
  template <class T>
  [[gnu::always_inline]] static void read(const T* from, std::int64_t ld, std::int64_t rows,
                                          std::int64_t depth, float* to, std::int64_t padded_rows) {
    const auto whole = depth / simd::kLanes * simd::kLanes, padded = simd::round_up(depth, simd::kLanes);
    for (std::int64_t i = 0; i < rows; ++i) {
      for (std::int64_t d = 0; d < whole; d += simd::kLanes)
        simd::store(to + i * padded + d, simd::load(from + i * ld + d));
      if (whole < depth)
        simd::store(to + i * padded + whole, simd::load_some(from + i * ld + whole, depth - whole));
    }
    clear(to + rows * padded, (padded_rows - rows) * padded);
  }
  template <class Cell>
  [[gnu::always_inline]] static void clear(Cell* to, std::int64_t count) {
    std::memset(to, 0, static_cast<std::size_t>(count) * sizeof(Cell));
  }
  /// (16, columns) -> (columns, 16) in rows of `ld`; columns a multiple of 16.
  template <simd::Isa isa, class Cell>
  [[gnu::always_inline]] static void transpose(const Cell* from, Cell* to, std::int64_t columns,
                                               std::int64_t ld) {
    if constexpr (isa >= simd::Isa::kAvx512)
      transpose_vectors(from, to, columns, ld);
    else
      transpose_fours(from, to, columns, ld);
  }

 private:
  template <class Cell>
  [[gnu::always_inline]] static void transpose_vectors(const Cell* from, Cell* to, std::int64_t columns,
                                                       std::int64_t ld) {
    for (std::int64_t d = 0; d < columns; d += simd::kLanes)
      transpose_block(from + d, columns, to + d * ld, ld);
  }
  template <class Cell>
  [[gnu::always_inline]] static void transpose_fours(const Cell* from, Cell* to, std::int64_t columns,
                                                     std::int64_t ld) {
    using Four [[gnu::vector_size(16)]] = Cell;  // every processor can shuffle these
    for (std::int64_t i = 0; i < simd::kLanes; i += 4)
      for (std::int64_t d = 0; d < columns; d += 4) {
        Four r[4];
        for (int e = 0; e < 4; ++e) std::memcpy(&r[e], from + (i + e) * columns + d, sizeof(Four));
        const Four ab = __builtin_shufflevector(r[0], r[1], 0, 4, 1, 5),
                   cd = __builtin_shufflevector(r[2], r[3], 0, 4, 1, 5),
                   ef = __builtin_shufflevector(r[0], r[1], 2, 6, 3, 7),
                   gh = __builtin_shufflevector(r[2], r[3], 2, 6, 3, 7);
        r[0] = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
        r[1] = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
        r[2] = __builtin_shufflevector(ef, gh, 0, 1, 4, 5);
        r[3] = __builtin_shufflevector(ef, gh, 2, 3, 6, 7);
        for (int e = 0; e < 4; ++e) std::memcpy(to + (d + e) * ld + i, &r[e], sizeof(Four));
      }
  }
};

}  // namespace offsite::ops::detail
