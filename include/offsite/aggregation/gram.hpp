#pragma once
#include <Eigen/Core>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <span>
#include <vector>

#include "offsite/aggregation/aggregation_policy.hpp"
#include "offsite/aggregation/pieces.hpp"

namespace offsite::detail {

constexpr Eigen::Index kGramRows = 4;  // of one operand in a block of products: 16 sums stay in registers
constexpr Eigen::Index kGramColumns =
    128;  // numbers of each update at a time: 32 updates fill the first cache

/// The sums of one block of 4 by 4 products, eight partial sums each.
struct GramBlock {
  double sums[kGramRows][kGramRows][8] = {};
};

/// Copies `count` <= kGramColumns numbers of every update, in double, and adds the products of each four with each four
/// (the lower triangle of blocks, row by row) to `blocks`. `copies` has room for whole blocks; its surplus rows are 0.
struct AddGram {
  template <simd::Isa>
  [[gnu::always_inline]] static void run(std::span<const ClientUpdate> updates, Eigen::Index begin,
                                         Eigen::Index count, double* copies, GramBlock* blocks) {
    const auto rows = static_cast<Eigen::Index>(updates.size());
    for (Eigen::Index i = 0; i < rows; ++i) {
      const float* from = updates[static_cast<std::size_t>(i)].delta.data() + begin;
      double* to = copies + i * kGramColumns;
      Eigen::Index k = 0;
      for (; k + 8 <= count; k += 8) {
        simd::EightFloats values;
        std::memcpy(&values, from + k, sizeof values);
        const auto wide = __builtin_convertvector(values, simd::Doubles);
        std::memcpy(to + k, &wide, sizeof wide);
      }
      for (; k < count; ++k) to[k] = double{from[k]};
      for (; k < kGramColumns; ++k) to[k] = 0;
    }
    for (Eigen::Index i = 0; i < rows; i += kGramRows)
      for (Eigen::Index j = 0; j <= i; j += kGramRows, ++blocks)
        add_block(copies + i * kGramColumns, copies + j * kGramColumns, *blocks);
  }

  [[gnu::always_inline]] static void add_block(const double* a, const double* b, GramBlock& block) {
    simd::Doubles sums[kGramRows][kGramRows], left, right[kGramRows];
    std::memcpy(&sums, &block.sums, sizeof sums);
    for (Eigen::Index k = 0; k < kGramColumns; k += 8) {
      for (int j = 0; j < kGramRows; ++j) std::memcpy(&right[j], b + j * kGramColumns + k, sizeof left);
      for (int i = 0; i < kGramRows; ++i) {
        std::memcpy(&left, a + i * kGramColumns + k, sizeof left);
        for (int j = 0; j < kGramRows; ++j) sums[i][j] += left * right[j];
      }
    }
    std::memcpy(&block.sums, &sums, sizeof sums);
  }
};

/// The inner products of all pairs of updates, (n, n), in double and one pass. Products of floats are exact in double, so
/// the products of equal updates are equal to the bit.
/// \throws ArgumentError as `check_updates` does.
[[nodiscard]] inline Eigen::MatrixXd gram(Eigen::Index size, std::span<const ClientUpdate> updates) {
  check_shapes(size, updates);
  constexpr Eigen::Index kParts = 16;  // a fixed number, so that the order of sums is fixed
  const auto n = static_cast<Eigen::Index>(updates.size());
  const auto side = (n + kGramRows - 1) / kGramRows, count = side * (side + 1) / 2;
  std::vector<std::vector<GramBlock>> parts(kParts);
  const Eigen::Index part = ((size + kParts - 1) / kParts + kGramColumns - 1) / kGramColumns * kGramColumns;
  const std::vector<double> copies(static_cast<std::size_t>(side * kGramRows * kGramColumns));
  (void)for_each_piece(size, std::max<Eigen::Index>(part, 1), copies,
                       [&](Eigen::Index begin, Eigen::Index length, std::vector<double>& own) {
                         auto& blocks = parts[static_cast<std::size_t>(begin / part)];
                         blocks.resize(static_cast<std::size_t>(count));
                         for (Eigen::Index k = 0; k < length; k += kGramColumns)
                           simd::run<AddGram>(updates, begin + k, std::min(kGramColumns, length - k),
                                              own.data(), blocks.data());
                         return true;
                       });
  Eigen::MatrixXd products = Eigen::MatrixXd::Zero(n, n);
  for (const auto& blocks : parts) {
    std::size_t at = 0;
    for (Eigen::Index i = 0; i < n && !blocks.empty(); i += kGramRows)
      for (Eigen::Index j = 0; j <= i; j += kGramRows, ++at)
        for (Eigen::Index r = i; r < std::min(i + kGramRows, n); ++r)
          for (Eigen::Index c = j; c < std::min(j + kGramRows, r + 1); ++c)
            for (int k = 0; k < 8; ++k) products(r, c) += blocks[at].sums[r - i][c - j][k];
  }
  products.triangularView<Eigen::StrictlyUpper>() = products.transpose();
  if (!products.diagonal().allFinite()) check_updates(size, updates);
  return products;
}

}  // namespace offsite::detail
