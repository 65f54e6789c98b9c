#pragma once
#include <Eigen/Core>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "offsite/aggregation/aggregation_policy.hpp"
#include "offsite/aggregation/pieces.hpp"

namespace offsite::detail {

/// Puts the smaller of two values at `low` and the larger at `high`.
struct Exchange {
  std::uint32_t low = 0, high = 0;
};

/// The exchanges that sort `n` values, without those that places `first` .. `last` - 1 do not depend on: Batcher's merge
/// exchange (Knuth, The Art of Computer Programming 3, algorithm 5.2.2M).
[[nodiscard]] inline std::vector<Exchange> sorting_network(std::size_t n, std::size_t first,
                                                           std::size_t last) {
  std::vector<Exchange> all, needed;
  std::size_t top = 1;
  while (2 * top < n) top *= 2;
  for (std::size_t p = top; p > 0; p /= 2) {
    std::size_t q = top, r = 0, d = p;
    for (;;) {
      for (std::size_t i = 0; i + d < n; ++i)
        if ((i & p) == r) all.push_back({static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(i + d)});
      if (q == p) break;
      d = q - p, q /= 2, r = p;
    }
  }
  std::vector<bool> wanted(n);
  for (std::size_t i = first; i < last; ++i) wanted[i] = true;
  for (auto exchange = all.rbegin(); exchange != all.rend(); ++exchange)
    if (wanted[exchange->low] || wanted[exchange->high]) {
      wanted[exchange->low] = wanted[exchange->high] = true;
      needed.push_back(*exchange);
    }
  std::reverse(needed.begin(), needed.end());
  return needed;
}

constexpr Eigen::Index kTile = 64;  ///< coordinates that are sorted at a time, four vectors of each update

/// A float as an integer of the same order, and back: both are the same mapping. Integers have a minimum that is one
/// instruction, and an order that knows both zeros.
[[gnu::always_inline]] inline simd::Ints ordered(const simd::Ints& bits) {
  return bits ^ ((bits >> 31) & 0x7fffffff);
}

/// Reads `count` coordinates of every update into tiles, [tile][update][kTile]; the last one is filled up with zeros.
/// Finds whether one is not finite.
struct ReadTiles {
  template <simd::Isa>
  [[gnu::always_inline]] static void run(std::span<const float* const> updates, Eigen::Index begin,
                                         Eigen::Index count, std::int32_t* tiles, bool* finite) {
    const auto n = static_cast<Eigen::Index>(updates.size());
    simd::Ints worst = 0;
    for (Eigen::Index u = 0; u < n; ++u) {
      const float* from = updates[static_cast<std::size_t>(u)] + begin;
      std::int32_t* to = tiles + u * kTile;
      Eigen::Index i = 0;
      for (; i + kTile <= count; i += kTile, to += n * kTile)
        for (Eigen::Index k = 0; k < kTile; k += simd::kLanes) {
          __builtin_prefetch(from + i + k + count, 0,
                             2);  // the next piece: a run is too short for the processor to foresee it
          read_keys(from + i + k, to + k, worst);
        }
      if (i < count) {
        float rest[kTile] = {};
        std::memcpy(rest, from + i, static_cast<std::size_t>(count - i) * sizeof(float));
        for (Eigen::Index k = 0; k < kTile; k += simd::kLanes) read_keys(rest + k, to + k, worst);
      }
    }
    for (int k = 0; k < simd::kLanes; ++k) *finite = *finite && worst.raw[k] < 0x7f800000;
  }

  [[gnu::always_inline]] static void read_keys(const float* from, std::int32_t* to, simd::Ints& worst) {
    const simd::Ints bits = simd::load(from).bits_as<std::int32_t>(), key = ordered(bits);
    worst = max(worst, bits & 0x7fffffff);
    std::memcpy(to, &key.raw, sizeof key.raw);
  }
};

/// Carries out the exchanges in one tile, all coordinates at once.
struct SortTile {
  template <simd::Isa>
  [[gnu::always_inline]] static void run(std::span<const Exchange> exchanges, std::int32_t* tile) {
    for (const auto& [low, high] : exchanges) {
      std::int32_t* at = tile + std::size_t{low} * kTile;
      std::int32_t* above = tile + std::size_t{high} * kTile;
      for (Eigen::Index i = 0; i < kTile; i += simd::kLanes) {
        simd::Ints a, b;
        std::memcpy(&a.raw, at + i, sizeof a.raw);
        std::memcpy(&b.raw, above + i, sizeof b.raw);
        const simd::Ints least = min(a, b), most = max(a, b);
        std::memcpy(at + i, &least.raw, sizeof least.raw);
        std::memcpy(above + i, &most.raw, sizeof most.raw);
      }
    }
  }
};

/// One row of a sorted tile as numbers again.
[[gnu::always_inline]] inline void read_row(const std::int32_t* row, float* to) {
  for (Eigen::Index i = 0; i < kTile; i += simd::kLanes) {
    simd::Ints key;
    std::memcpy(&key.raw, row + i, sizeof key.raw);
    simd::store(to + i, ordered(key).template bits_as<float>());
  }
}

/// next = global + what `Reduce::run<isa>(tile, n, arguments..., out)` makes of the sorted values of every coordinate;
/// `out` holds kTile floats, and of the values, those at places `first` .. `last` - 1 are right.
/// \throws ArgumentError as `check_updates` does.
template <class Reduce, class Arguments>
[[nodiscard]] Eigen::VectorXf reduce_sorted(const Eigen::VectorXf& global,
                                            std::span<const ClientUpdate> updates,
                                            const std::vector<const float*>& chosen, std::size_t first,
                                            std::size_t last, const Arguments& arguments) {
  const auto network = sorting_network(chosen.size(), first, last);
  // What is read at a time fits the second cache, in runs of updates that are as long as that lets them be.
  const auto n = static_cast<Eigen::Index>(chosen.size());
  const Eigen::Index piece = std::clamp<Eigen::Index>(65536 / n / kTile * kTile, kTile, 2048);
  const std::vector<std::int32_t> room(static_cast<std::size_t>(piece * n));
  Eigen::VectorXf next(global.size());
  const bool finite = for_each_piece(
      global.size(), piece, room,
      [&](Eigen::Index begin, Eigen::Index count, std::vector<std::int32_t>& tiles) {
        bool good = true;
        simd::run<ReadTiles>(std::span<const float* const>(chosen), begin, count, tiles.data(), &good);
        for (Eigen::Index i = 0; i < count; i += kTile) {
          std::int32_t* tile = tiles.data() + i * n;
          float values[kTile];
          simd::run<SortTile>(std::span<const Exchange>(network), tile);
          simd::run<Reduce>(static_cast<const std::int32_t*>(tile), n, arguments, &values[0]);
          for (Eigen::Index k = i; k < std::min(i + kTile, count); ++k)
            next[begin + k] = global[begin + k] + values[k - i];
        }
        return good;
      });
  if (!finite) check_updates(global.size(), updates);
  return next;
}

}  // namespace offsite::detail
