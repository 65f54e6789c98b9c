#pragma once
#include <Eigen/Core>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>
#include <vector>

#include "offsite/aggregation/aggregation_policy.hpp"
#include "offsite/aggregation/pieces.hpp"

namespace offsite {

namespace detail {

/// A vector of a sum: `values` times `scale` in float, then times `weight` in double.
struct Addend {
  const float* values = nullptr;
  double weight = 1;
  float scale = 1;
};

constexpr Eigen::Index kSums = 4096;  ///< sums at a time: they stay in the first cache

/// after = before + `Count` vectors, one by one in their order: the sums go through the registers once for all
/// of them. No `before` stands for zeros; `far` says that it may not be in the cache yet.
template <int Count>
[[gnu::always_inline]] inline void add_vectors(const Addend* addends, Eigen::Index begin, Eigen::Index count,
                                               const double* before, bool far, double* after) {
  Addend a[Count];
  for (int k = 0; k < Count; ++k) {
    a[k] = addends[k];
    a[k].values += begin;
  }
  Eigen::Index i = 0;
  for (; i + 8 <= count; i += 8) {
    simd::Doubles block{};
    if (before != nullptr) std::memcpy(&block, before + i, sizeof block);
    if (far)
      __builtin_prefetch(before + i + kSums, 0, 2);  // the next piece: a run is too short to be foreseen
    for (int k = 0; k < Count; ++k) {
      simd::EightFloats values;
      std::memcpy(&values, a[k].values + i, sizeof values);
      __builtin_prefetch(a[k].values + i + kSums, 0, 2);
      block += a[k].weight * __builtin_convertvector(values * a[k].scale, simd::Doubles);
    }
    std::memcpy(after + i, &block, sizeof block);
  }
  for (; i < count; ++i) {
    double sum = before == nullptr ? 0 : before[i];
    for (int k = 0; k < Count; ++k) sum += a[k].weight * double{a[k].values[i] * a[k].scale};
    after[i] = sum;
  }
}

/// after = before + the addends, all by the same arithmetic however many there are at a time; both may be the
/// same, and no `before` stands for zeros.
struct AddWeighted {
  template <simd::Isa>
  [[gnu::always_inline]] static void run(std::span<const Addend> addends, Eigen::Index begin,
                                         Eigen::Index count, const double* before, double* after) {
    std::size_t k = 0;
    for (; k + 8 <= addends.size(); k += 8, before = after)
      add_vectors<8>(addends.data() + k, begin, count, before, k == 0 && before != nullptr, after);
    for (; k + 4 <= addends.size(); k += 4, before = after)
      add_vectors<4>(addends.data() + k, begin, count, before, k == 0 && before != nullptr, after);
    for (; k < addends.size(); ++k, before = after)
      add_vectors<1>(addends.data() + k, begin, count, before, k == 0 && before != nullptr, after);
  }
};

/// next = base + sum / total, in float but for the quotient; without `base` the quotient alone.
struct DivideSum {
  template <simd::Isa>
  [[gnu::always_inline]] static void run(const double* sum, double total, const float* base, float* next,
                                         Eigen::Index count) {
    Eigen::Index i = 0;
    for (; i + 8 <= count; i += 8) {
      simd::Doubles all;
      std::memcpy(&all, sum + i, sizeof all);
      simd::EightFloats mean = __builtin_convertvector(all / total, simd::EightFloats), start;
      if (base != nullptr) {
        std::memcpy(&start, base + i, sizeof start);
        mean = start + mean;
      }
      std::memcpy(next + i, &mean, sizeof mean);
    }
    for (; i < count; ++i) {
      const auto mean = static_cast<float>(sum[i] / total);
      next[i] = base == nullptr ? mean : base[i] + mean;
    }
  }
};

/// Whether all sums are finite, as they are not if one of their addends is not.
struct FiniteSums {
  template <simd::Isa>
  [[gnu::always_inline]] static void run(const double* sums, Eigen::Index count, bool* finite) {
    simd::Doubles zeros{};
    Eigen::Index i = 0;
    for (; i + 8 <= count; i += 8) {
      simd::Doubles all;
      std::memcpy(&all, sums + i, sizeof all);
      zeros += all * 0.0;
    }
    for (; i < count; ++i) zeros[0] += sums[i] * 0.0;
    for (int k = 0; k < 8; ++k) *finite = *finite && zeros[k] == 0;
  }
};

/// after = before + the addends, of which there are some; no `before` stands for zeros.
/// \returns whether all sums are finite
[[nodiscard]] inline bool add_to(const double* before, std::span<const Addend> addends, Eigen::Index begin,
                                 Eigen::Index count, double* after) {
  bool finite = true;
  simd::run<AddWeighted>(addends, begin, count, before, after);
  simd::run<FiniteSums>(static_cast<const double*>(after), count, &finite);
  return finite;
}

/// base + (before + sum of the addends) / total, in one pass by pieces whose sums in double stay in the cache. No
/// `base` and no `before` stand for zeros; there is `before` or an addend.
/// \returns whether all sums are finite, as they are not if one of the addends is not
[[nodiscard]] inline bool mean_of(const double* before, std::span<const Addend> addends, double total,
                                  const float* base, Eigen::VectorXf& next) {
  struct Sums {
    double values[kSums];
  };
  return for_each_piece(next.size(), kSums, Sums{}, [&](Eigen::Index begin, Eigen::Index count, Sums& sums) {
    const double* own = before == nullptr ? nullptr : before + begin;
    bool finite = true;
    if (addends.empty())
      std::copy_n(own, count, sums.values);
    else
      finite = add_to(own, addends, begin, count, &sums.values[0]);
    simd::run<DivideSum>(&sums.values[0], total, base == nullptr ? nullptr : base + begin,
                         next.data() + begin, count);
    return finite;
  });
}

/// The updates as addends; each is scaled by its number in `scales`, if there are any.
template <class Update>
[[nodiscard]] std::vector<Addend> addends_of(std::span<const Update> updates,
                                             std::span<const float> scales = {}) {
  std::vector<Addend> addends;
  for (std::size_t i = 0; i < updates.size(); ++i)
    addends.push_back({updates[i].delta.data(), updates[i].weight, scales.empty() ? 1 : scales[i]});
  return addends;
}

/// `base`, which may be null, plus the weighted mean of the updates, each scaled first if there are `scales`.
[[nodiscard]] inline Eigen::VectorXf mean_onto(const float* base, Eigen::Index size,
                                               std::span<const ClientUpdate> updates,
                                               std::span<const float> scales = {}) {
  check_shapes(size, updates);
  double total = 0;
  for (const auto& update : updates) total += update.weight;
  auto mean = long_vector<Eigen::VectorXf>(size);
  if (!mean_of(nullptr, addends_of(updates, scales), total, base, mean)) check_updates(size, updates);
  return mean;
}

}  // namespace detail

/// sum(w_i delta_i) / sum(w_i), in one pass, summed in double.
/// \throws ArgumentError as `check_updates` does.
[[nodiscard]] inline Eigen::VectorXf weighted_mean(Eigen::Index size, std::span<const ClientUpdate> updates) {
  return detail::mean_onto(nullptr, size, updates);
}

/// A policy that needs no more of the updates than their weighted mean.
///
///   `p.step(global, mean, state)`   what `aggregate` gives for updates with that mean, bit for bit
template <class P>
concept StepsByMean = AggregationPolicy<P> &&
    requires(const P& policy, const Eigen::VectorXf& global, Eigen::VectorXf mean, typename P::State& state) {
  { policy.step(global, mean, state) } -> std::same_as<Eigen::VectorXf>;
};

}  // namespace offsite
