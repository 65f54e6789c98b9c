#pragma once
#include <Eigen/Core>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "offsite/core/simd.hpp"

namespace offsite::detail {

/// A long vector, not set: its memory comes in large pages where the system has them, as first touching small ones
/// takes longer than computing what goes there.
template <class Vector>
[[nodiscard]] Vector long_vector(Eigen::Index size) {
  Vector vector(size);
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr std::uintptr_t kLarge = 2 << 20;
  const auto begin = (reinterpret_cast<std::uintptr_t>(vector.data()) + kLarge - 1) / kLarge * kLarge;
  const auto end = reinterpret_cast<std::uintptr_t>(vector.data() + size) / kLarge * kLarge;
  if (begin < end) (void)madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
  return vector;
}

/// Calls `f(begin, count, workspace)` for the pieces of [0, size), on OpenMP's threads where there are any, each of which
/// makes itself a `Workspace`. `f` must not throw. What it computes must depend on its piece alone: then results do not
/// depend on the number of threads.
/// \returns whether all calls returned true
template <class Workspace, class F>
[[nodiscard]] bool for_each_piece(Eigen::Index size, Eigen::Index piece, const Workspace& prototype,
                                  const F& f) {
  const Eigen::Index pieces = (size + piece - 1) / piece;
  bool all = true;
#ifdef _OPENMP
#pragma omp parallel if (pieces > 8) reduction(&& : all)
#endif
  {
    Workspace workspace = prototype;
#ifdef _OPENMP
#pragma omp for schedule(static)
#endif
    for (Eigen::Index k = 0; k < pieces; ++k)
      all = f(k * piece, std::min(piece, size - k * piece), workspace) && all;
  }
  return all;
}

/// The same without a workspace.
template <class F>
bool for_each_piece(Eigen::Index size, Eigen::Index piece, const F& f) {
  return for_each_piece(size, piece, false,
                        [&](Eigen::Index begin, Eigen::Index count, bool) { return f(begin, count); });
}

constexpr Eigen::Index kPiece =
    16384;  ///< numbers that one thread takes at a time where nothing else decides

/// The largest exponent field says whether all are finite: infinity and NaN have it full.
struct FindNotFinite {
  template <simd::Isa>
  [[gnu::always_inline]] static void run(const float* x, Eigen::Index count, bool* found) {
    simd::Ints worst = 0;
    const auto look = [&](const simd::Floats& v) __attribute__((always_inline)) {
      const simd::Ints magnitude = v.bits_as<std::int32_t>() & 0x7fffffff;
      worst = max(worst, magnitude);
    };
    Eigen::Index i = 0;
    for (; i + simd::kLanes <= count; i += simd::kLanes) look(simd::load(x + i));
    if (i < count) {
      float rest[simd::kLanes] = {};
      std::memcpy(rest, x + i, static_cast<std::size_t>(count - i) * sizeof(float));
      look(simd::load(rest));
    }
    for (int k = 0; k < simd::kLanes; ++k) *found |= worst.raw[k] >= 0x7f800000;
  }
};

[[nodiscard]] inline bool all_finite(const Eigen::Ref<const Eigen::VectorXf>& x) {
  return for_each_piece(x.size(), kPiece, [&](Eigen::Index begin, Eigen::Index count) {
    bool found = false;
    simd::run<FindNotFinite>(x.data() + begin, count, &found);
    return !found;
  });
}

/// Sum of squares in double.
struct SquaredNorm {
  template <simd::Isa>
  [[gnu::always_inline]] static void run(const float* x, Eigen::Index count, double* sum) {
    simd::Doubles lanes[2] = {};
    Eigen::Index i = 0;
    for (; i + 16 <= count; i += 16)
      for (int k = 0; k < 2; ++k) {
        simd::EightFloats values;
        std::memcpy(&values, x + i + 8 * k, sizeof values);
        const auto wide = __builtin_convertvector(values, simd::Doubles);
        lanes[k] += wide * wide;
      }
    for (int k = 0; i + k < count; ++k) lanes[0][k % 8] += double{x[i + k]} * double{x[i + k]};
    for (int k = 0; k < 8; ++k) *sum += lanes[0][k] + lanes[1][k];
  }
};

/// Whatever the number of threads, the same bits.
[[nodiscard]] inline double norm(const Eigen::Ref<const Eigen::VectorXf>& x) {
  Eigen::VectorXd parts = Eigen::VectorXd::Zero((x.size() + kPiece - 1) / kPiece);
  for_each_piece(x.size(), kPiece, [&](Eigen::Index begin, Eigen::Index count) {
    simd::run<SquaredNorm>(x.data() + begin, count, &parts[begin / kPiece]);
    return true;
  });
  double sum = 0;
  for (const double part : parts) sum += part;
  return std::sqrt(sum);
}

}  // namespace offsite::detail
