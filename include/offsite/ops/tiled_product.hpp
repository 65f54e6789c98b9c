#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/native/CPUBlas.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "offsite/ops/accumulate.hpp"
#include "offsite/ops/packed_factor.hpp"
#include "offsite/ops/product_tile.hpp"
#include "offsite/ops/share_work.hpp"
#include "offsite/ops/simd.hpp"

// Products out of tiles that stay in registers until they are finished. oneDNN's own product chooses its blocks for other
// processors: on Zen 4 it is 10 to 20 % slower.

namespace offsite::ops {
namespace detail {

/// Rows in as few strips of at most `most` rows as there can be, of about equal heights.
struct Strips {
  std::int64_t all, count;
  Strips(std::int64_t rows, std::int64_t most) : all(rows), count((rows + most - 1) / most) {}
  [[nodiscard]] std::int64_t top(std::int64_t strip) const { return all * strip / count; }
  [[nodiscard]] std::int64_t rows(std::int64_t strip) const { return top(strip + 1) - top(strip); }
};

}  // namespace detail

/// Products of bfloat16 or float32 matrices with many rows, summed in float32 along the depth, number by number or pair by pair.
struct TiledProduct {
  /// Whether `y = a b` can be computed here: on processors with AVX-512's products of bfloat16 and without AMX, whose own
  /// products are better, with rows of `a` and rows or columns of `b` dense, and enough rows to pay for packing `b`.
  [[nodiscard]] static bool serves(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias = {}) {
    return usable(a, b, fewest_rows(a, b)) && in_cells(a, a.size(1)) && addable(a, bias) &&
           (b.stride(1) == 1 || (b.stride(0) == 1 && in_cells(b, b.stride(1)) && aligned(b)));
  }
  /// What every product in tiles asks for: one of the two types, `fewest` rows of `a`, dense ones, something to sum, and not
  /// too few columns of `b`.
  [[nodiscard]] static bool usable(const at::Tensor& a, const at::Tensor& b, std::int64_t fewest) {
    return simd::chosen_isa() == simd::Isa::kAvx512Bf16 && !c10::GradMode::is_enabled() &&
           detail::is_fast(a) && b.is_cpu() && a.scalar_type() == b.scalar_type() && a.size(0) >= fewest &&
           a.size(1) > 0 && a.stride(1) == 1 && b.size(1) >= kFewestColumns && !has_amx();
  }
  /// Whether `count` numbers of `t` fill cells of 32 bits.
  [[nodiscard]] static bool in_cells(const at::Tensor& t, std::int64_t count) {
    return count * t.element_size() % std::int64_t{sizeof(std::uint32_t)} == 0;
  }
  /// Whether the bias, if there is one, can be added on the way.
  [[nodiscard]] static bool addable(const at::Tensor& a, const at::Tensor& bias) {
    return !bias.defined() || (bias.scalar_type() == a.scalar_type() && bias.is_contiguous());
  }
  [[nodiscard]] static bool aligned(const at::Tensor& t) {
    return reinterpret_cast<std::uintptr_t>(t.const_data_ptr()) % alignof(std::uint32_t) == 0;
  }
  /// Fewer rows do not pay for packing `b`. Pairs along the depth are in place if `b` is dense there, and need no packing for
  /// `TransposedProduct`.
  [[nodiscard]] static std::int64_t fewest_rows(const at::Tensor& a, const at::Tensor& b) {
    return (a.scalar_type() == at::kFloat ? 128 : 256) * (b.stride(1) == 1 ? 1 : 2);
  }

  /// For profilers, which see LibTorch's operators but not this: called when a product begins and ends, if it is set.
  using Observer = void (*)(const at::Tensor& a, const at::Tensor& b, bool begins);
  static inline Observer observer = nullptr;
  struct Observed {
    const at::Tensor a, b;
    Observed(const at::Tensor& left, const at::Tensor& right) : a(left), b(right) {
      if (observer != nullptr) observer(a, b, true);
    }
    ~Observed() {
      if (observer != nullptr) observer(a, b, false);
    }
    Observed(const Observed&) = delete;
    Observed& operator=(const Observed&) = delete;
  };

  /// a b + bias: `a` (rows, depth), `b` (depth, columns), `bias` (columns) or undefined, dense.
  [[nodiscard]] static at::Tensor run(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias) {
    at::Tensor y = at::empty({a.size(0), b.size(1)}, a.options());
    const Observed observed(a, b);
    with_type(a, [&]<class T>(T*) {
      const detail::RightFactor<T> right(b);
      // Some megabytes of `b` are packed at a time.
      const auto block = columns_of_block<T>(right.cells()),
                 most = std::max(kPackedCells / (right.cells() * block), std::int64_t{1}) * block;
      for (std::int64_t start = 0; start < right.padded(); start += most)
        multiply<T>(a, right, start, std::min(start + most, right.padded()), block, bias, y);
    });
    return y;
  }

 private:
  /// Columns [start, stop) of y = a b + bias. Threads pack blocks of `b` and multiply them with groups of rows: a block stays in
  /// the second cache until all rows of a group have met it.
  template <class T>
  static void multiply(const at::Tensor& a, const detail::RightFactor<T>& b, std::int64_t start,
                       std::int64_t stop, std::int64_t block, const at::Tensor& bias, at::Tensor& y) {
    const at::Tensor memory = at::empty({b.cells() * (stop - start)}, at::kInt);
    auto* packed = reinterpret_cast<std::uint32_t*>(memory.mutable_data_ptr<std::int32_t>());
    const auto at = [&](std::int64_t i) { return packed + i * block * b.cells(); };
    const auto first = [&](std::int64_t i) { return start + i * block; };
    const auto last = [&](std::int64_t i) { return std::min(first(i) + block, stop); };
    const auto pack = [&](std::int64_t i) { b.pack(first(i), last(i), at(i)); };
    const detail::Strips strips(a.size(0), detail::ProductTile<T>::kRows);
    const auto blocks = (stop - start + block - 1) / block, groups = (strips.count + kGroup - 1) / kGroup;
    Preparations packing(blocks);
    share_work(packing, pack, blocks * groups, groups, [&](std::int64_t begin, std::int64_t end) {
      for (auto i = begin; i < end; ++i) {
        const auto own = i / groups, top = i % groups * kGroup, bottom = std::min(top + kGroup, strips.count);
        packing.wait(own);
        for (std::int64_t from = 0; from < b.cells(); from += kPart<T>)
          for (auto strip = top; strip < bottom; ++strip)
            multiply_strip(a, strips, strip, b, first(own), last(own), at(own), from, bias, y);
      }
    });
  }

  /// What cells from `from` of a strip's rows give to the sums of columns [first, last), whose panels begin at `packed`.
  template <class T>
  static void multiply_strip(const at::Tensor& a, const detail::Strips& strips, std::int64_t strip,
                             const detail::RightFactor<T>& b, std::int64_t first, std::int64_t last,
                             const std::uint32_t* packed, std::int64_t from, const at::Tensor& bias,
                             at::Tensor& y) {
    using Sums = detail::StoreSums<T>;
    const auto depth = std::min(kPart<T>, b.cells() - from),
               panels = (last - first + b.kPanel - 1) / b.kPanel, top = strips.top(strip),
               rows = strips.rows(strip), ld = y.size(1);
    auto left = apart(left_cells<T>(a, strips, strip, from, depth, panels), rows, depth);
    auto* to = y.mutable_data_ptr<T>() + top * ld;
    const bool done = from + depth == b.cells();
    for (auto j = first; j < last; j += b.kPanel, left.next += left.next_share) {
      const auto width = b.width(j);
      const Sums sums{to + j, ld, done ? detail::bias_from<T>(bias, j) : nullptr, from > 0};
      detail::ProductTile<T>::template function<Sums>(rows, width)(
          left, packed + (j - first) * b.cells() + from * width, depth, std::min(width, b.columns - j), sums);
    }
  }

  /// Some cells of a strip's rows. While it meets some panels, each fetches a share of the next strip: of all that lies
  /// behind this one where rows have no more cells, or a row.
  template <class T>
  [[nodiscard]] static detail::LeftCells left_cells(const at::Tensor& a, const detail::Strips& strips,
                                                    std::int64_t strip, std::int64_t from, std::int64_t depth,
                                                    std::int64_t panels) {
    constexpr auto kCell = std::int64_t{sizeof(std::uint32_t)};
    const auto row = a.stride(0) * std::int64_t{sizeof(T)};
    const auto* data =
        reinterpret_cast<const char*>(a.const_data_ptr<T>()) + strips.top(strip) * row + from * kCell;
    detail::LeftCells left{.data = data, .row = row, .step = kCell, .next = data};
    if (strip + 1 == strips.count) return left;
    const bool whole = row == depth * kCell;
    left.next += strips.rows(strip) * row;
    left.next_step = whole ? strips.rows(strip + 1) * kCell / panels : kCell;
    left.next_share = whole ? left.next_step * depth : row;
    return left;
  }

  /// Rows whose distance is a multiple of a page meet in the same few places of the first cache and drive each other out:
  /// such ones are copied.
  [[nodiscard]] static detail::LeftCells apart(detail::LeftCells left, std::int64_t rows,
                                               std::int64_t depth) {
    constexpr std::int64_t kPage = 4096, kCell = sizeof(float);
    if (left.row % kPage != 0) return left;
    const auto row = (depth + simd::kLanes) * kCell;
    auto* copy = reinterpret_cast<char*>(simd::Scratch::floats(rows * row / kCell));
    for (std::int64_t i = 0; i < rows; ++i)
      std::memcpy(copy + i * row, left.data + i * left.row, static_cast<std::size_t>(depth * kCell));
    left.data = copy, left.row = row;
    return left;
  }

  /// What of the depth is summed at a time, so that what is multiplied stays in the second cache: of bfloat16, half as
  /// wide, all.
  template <class T>
  static constexpr std::int64_t kPart = std::is_same_v<T, float> ? 768
                                                                 : std::numeric_limits<std::int64_t>::max();

  template <class T>
  [[nodiscard]] static std::int64_t columns_of_block(std::int64_t cells) {
    constexpr auto kPanel = detail::RightFactor<T>::kPanel;
    return std::clamp(kBlockCells / std::min(cells, kPart<T>) / kPanel, std::int64_t{1}, kPanels) * kPanel;
  }

  // A block is at most half of a megabyte large, and has at most as many panels; a group has as many strips.
  static constexpr std::int64_t kBlockCells = 9 << 14, kPanels = 16, kGroup = 16;
  static constexpr std::int64_t kFewestColumns = 64, kPackedCells = 1 << 21;

  /// Processors with AMX are better served by oneDNN's products.
  [[nodiscard]] static bool has_amx() {
    static const bool found = at::native::cpublas::could_pack(at::kBFloat16);
    return found;
  }
};

}  // namespace offsite::ops
