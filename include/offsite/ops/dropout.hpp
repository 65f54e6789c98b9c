#pragma once
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "offsite/core/dropout.hpp"
#include "offsite/core/error.hpp"
#include "offsite/core/random.hpp"
#include "offsite/core/sequences.hpp"
#include "offsite/core/tensor_view.hpp"
#include "offsite/ops/accumulate.hpp"
#include "offsite/ops/simd.hpp"

namespace offsite::ops {

/// The mask of one row: column j stays if 31 random bits made from the row's key and j reach a threshold.
///
/// A counter-based generator, so any column of any row can be drawn at any time, by any thread, in either
/// pass.
struct DropoutRow {
  std::uint64_t key = 0;       ///< from seed, step, place, sample and position: see `derive_key`
  std::int32_t threshold = 0;  ///< rate * 2^31
  float scale = 1;             ///< of what stays: 1 / (1 - rate)

  /// \param rate in [0, 1)
  [[nodiscard]] static DropoutRow of(std::uint64_t key, double rate) {
    return {key, static_cast<std::int32_t>(rate * 0x1.0p31), static_cast<float>(1.0 / (1.0 - rate))};
  }
  /// 0 or `scale`.
  [[nodiscard]] float factor(std::int64_t column) const {
    const auto x = hash(static_cast<std::uint32_t>(column));
    return static_cast<std::int32_t>(x >> 1) >= threshold ? scale : 0.0f;
  }
  /// 0 or `scale`, for columns first .. first + 15.
  [[gnu::always_inline]] simd::Floats factors(std::int64_t first) const {
    const simd::Words x = hash(simd::iota() + static_cast<std::uint32_t>(first));
    return select((x >> 1).bits_as<std::int32_t>() >= threshold, simd::Floats(scale), 0.0f);
  }

 private:
  // Two rounds of a mixer of 32 bits, one for each half of the key, since vectors multiply 32 bits at a time.
  template <class Word>
  [[gnu::always_inline]] Word hash(const Word& column) const {
    const Word x = mix<Word>(column ^ static_cast<std::uint32_t>(key));
    return mix<Word>(x ^ static_cast<std::uint32_t>(key >> 32));
  }
  template <class Word>
  [[gnu::always_inline]] static Word mix(const Word& bits) {
    Word x = (bits ^ (bits >> 16)) * 0x7feb352du + 0x9e3779b9u;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
  }
};

namespace detail {

struct DropoutKernel {
  template <simd::Isa, class T>
  [[gnu::always_inline]] static void run(T* x, std::int64_t n, const DropoutRow& given) {
    const DropoutRow mask = given;  // a copy that no store can change: its parts stay in registers
    std::int64_t j = 0;
    for (; j + simd::kLanes <= n; j += simd::kLanes) simd::store(x + j, simd::load(x + j) * mask.factors(j));
    if (j < n) simd::store_some(x + j, simd::load_some(x + j, n - j) * mask.factors(j), n - j);
  }
};

}  // namespace detail

/// Masks of a residual branch, one a row: functions of key, place, sample and position alone.
///
/// \param rows which packed rows are meant, ascending (M) int64; undefined for all N
[[nodiscard]] inline std::vector<DropoutRow> residual_masks(const Sequences& s, const at::Tensor& rows,
                                                            double rate, std::uint64_t key,
                                                            std::int64_t place) {
  require(0 <= rate && rate < 1, "a dropout rate is {}, but rates lie in [0, 1)", rate);
  const auto count = rows.defined() ? rows.numel() : s.rows();
  const auto* chosen = rows.defined() ? rows.const_data_ptr<std::int64_t>() : nullptr;
  const auto* positions = s.positions.const_data_ptr<std::int64_t>();
  std::vector<DropoutRow> masks;
  masks.reserve(static_cast<std::size_t>(count));
  std::int64_t sequence = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto row = chosen ? chosen[i] : i;
    while (s.begin(sequence + 1) <= row) ++sequence;
    masks.push_back(DropoutRow::of(derive_key(key, place, s.sample(sequence), positions[row]), rate));
  }
  return masks;
}

/// Multiplies each row of `x` (M, C) by its mask, in place: the same for values and for gradients.
inline void dropout_(const at::Tensor& x, const std::vector<DropoutRow>& masks) {
  require(x.dim() == 2 && x.size(0) == static_cast<std::int64_t>(masks.size()) && x.stride(1) == 1 &&
              detail::is_fast(x),
          "dropout masks were drawn for {} rows, but the tensor is {} of type {}", masks.size(),
          shape_text(x.sizes()), x.dtype().name());
  with_type(x, [&]<class T>(T*) {
    auto* p = x.mutable_data_ptr<T>();
    const auto columns = x.size(1), ld = x.stride(0);
    at::parallel_for(0, x.size(0), 1 + 16384 / (columns + 1), [&](std::int64_t begin, std::int64_t end) {
      for (auto i = begin; i < end; ++i)
        simd::run<detail::DropoutKernel>(p + i * ld, columns, masks[static_cast<std::size_t>(i)]);
    });
  });
}

}  // namespace offsite::ops
