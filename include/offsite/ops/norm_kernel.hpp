#pragma once
#include <c10/util/BFloat16.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "offsite/ops/simd.hpp"

// Kernels of norms over rows: the layer norm subtracts a row's mean first, the norm by root mean squares does not.

namespace offsite::ops::detail {

/// Calls `f(j, lanes)` for the columns of a row: sixteen at a time, then the rest.
template <class F>
[[gnu::always_inline]] inline void for_lanes(std::int64_t columns, F&& f) {
  std::int64_t j = 0;
  for (; j + simd::kLanes <= columns; j += simd::kLanes) f(j, simd::kLanes);
  if (j < columns) f(j, columns - j);
}
template <simd::Isa isa, class T>
[[gnu::always_inline]] inline simd::Floats load_lanes(const T* p, std::int64_t n) {
  return n == simd::kLanes ? simd::load<isa>(p) : simd::load_some(p, n);
}
template <simd::Isa isa, class T>
[[gnu::always_inline]] inline void store_lanes(T* p, const simd::Floats& v, std::int64_t n) {
  if (n == simd::kLanes)
    simd::store<isa>(p, v);
  else
    simd::store_some(p, v, n);
}

/// Thirty-two numbers in any order, for sums: bfloat16 are halves of words, which are cheaper to part than to widen.
[[gnu::always_inline]] inline std::array<simd::Floats, 2> load_two(const float* p) {
  return {simd::load(p), simd::load(p + simd::kLanes)};
}
[[gnu::always_inline]] inline std::array<simd::Floats, 2> load_two(const c10::BFloat16* p) {
  simd::Words pairs;
  std::memcpy(&pairs.raw, p, sizeof pairs.raw);
  return {(pairs << 16).bits_as<float>(), (pairs & 0xffff0000u).bits_as<float>()};
}

/// The sum of f(x) over a row; four sums at a time, as additions to one wait for each other.
template <simd::Isa isa, class T, class F>
[[gnu::always_inline]] inline float sum_of(const T* x, std::int64_t columns, F&& f) {
  simd::Floats sums[4] = {};
  std::int64_t j = 0;
  for (; j + 4 * simd::kLanes <= columns; j += 4 * simd::kLanes) {
    const auto a = load_two(x + j), b = load_two(x + j + 2 * simd::kLanes);
    sums[0] += f(a[0]), sums[1] += f(a[1]), sums[2] += f(b[0]), sums[3] += f(b[1]);
  }
  for_lanes(
      columns - j, [&](std::int64_t k, std::int64_t n) __attribute__((always_inline)) {
        const simd::Floats v = f(load_lanes<isa>(x + j + k, n));
        if (n == simd::kLanes)
          sums[0] += v;
        else  // the lanes past the end hold what f made of 0
          sums[0] += select(simd::iota() < static_cast<std::uint32_t>(n), v, simd::Floats{});
      });
  return simd::sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

/// y = (x - mean) rstd scale + shift, row by row; writes `mean` and `rstd`. Without `kCentred` there is neither a mean
/// nor a shift. Where `addend` is not null, x first becomes x + addend, rounded to its type. A row is read again for its
/// squares, from the first cache: the difference of two sums would cancel.
template <bool kCentred>
struct NormKernel {
  static constexpr bool kUsesBFloat16 = true;

  template <simd::Isa isa, class T>
  [[gnu::always_inline]] static void run(T* x, const T* addend, const float* scale, const float* shift, T* y,
                                         float* mean, float* rstd, std::int64_t rows, std::int64_t columns,
                                         float eps) {
    const auto width = static_cast<float>(columns);
    for (std::int64_t i = 0; i < rows; ++i, x += columns, y += columns) {
      if (addend) {
        for_lanes(
            columns, [&](std::int64_t j, std::int64_t n) __attribute__((always_inline)) {
              store_lanes<isa>(x + j, load_lanes<isa>(x + j, n) + load_lanes<isa>(addend + j, n), n);
            });
        addend += columns;
      }
      float m = 0;
      if constexpr (kCentred)
        m = mean[i] =
            sum_of<isa>(
                x, columns, [](const simd::Floats& v) __attribute__((always_inline)) { return v; }) /
            width;
      const simd::Floats middle(m);
      const float squares = sum_of<isa>(
          x, columns, [&](const simd::Floats& v) __attribute__((always_inline)) {
            const simd::Floats difference = kCentred ? v - middle : v;
            return difference * difference;
          });
      rstd[i] = 1.0f / std::sqrt(squares / width + eps);
      const simd::Floats r(rstd[i]);
      for_lanes(
          columns, [&](std::int64_t j, std::int64_t n) __attribute__((always_inline)) {
            const simd::Floats v = load_lanes<isa>(x + j, n), w = load_lanes<isa>(scale + j, n);
            if constexpr (kCentred)
              store_lanes<isa>(y + j, (v - middle) * r * w + load_lanes<isa>(shift + j, n), n);
            else
              store_lanes<isa>(y + j, v * r * w, n);
          });
    }
  }
};

/// dx = r (g - mean(g) - x^ mean(g x^)) + addend with g = dy scale and x^ = r (x - m), without mean(g) unless `kCentred`
/// and without the addend where that is null; nothing where `dx` is null. Where `d_scale` is not, adds the rows' dy x^ to
/// it and, if `kCentred`, dy to `d_shift`: eight rows at a time, which caches still hold.
template <bool kCentred>
struct NormBackwardKernel {
  static constexpr bool kUsesBFloat16 = true;
  static constexpr std::int64_t kRows = 8;

  template <simd::Isa isa, class T>
  [[gnu::always_inline]] static void run(const T* dy, const T* x, const T* addend, const float* scale,
                                         const float* mean, const float* rstd, T* dx, float* d_scale,
                                         float* d_shift, std::int64_t rows, std::int64_t columns) {
    for (; rows > 0; rows -= kRows) {
      const auto n = std::min(kRows, rows);
      simd::Floats m[kRows], r[kRows];
      for (std::int64_t i = 0; i < n; ++i) {
        if constexpr (kCentred) m[i] = mean[i];
        r[i] = rstd[i];
        if (dx)
          of_row<isa>(dy + i * columns, x + i * columns, addend ? addend + i * columns : nullptr, scale, m[i],
                      r[i], dx + i * columns, columns);
      }
      if (d_scale) of_parameters<isa>(dy, x, m, r, d_scale, d_shift, n, columns);
      dy += n * columns, x += n * columns, rstd += n;
      if (kCentred) mean += n;
      if (dx) dx += n * columns;
      if (addend) addend += n * columns;
    }
  }

 private:
  [[gnu::always_inline]] static simd::Floats centred(const simd::Floats& x, const simd::Floats& m) {
    return kCentred ? x - m : x;
  }
  template <simd::Isa isa, class T>
  [[gnu::always_inline]] static void of_row(const T* dy, const T* x, const T* addend, const float* scale,
                                            const simd::Floats& m, const simd::Floats& r, T* dx,
                                            std::int64_t columns) {
    simd::Floats products[4] = {}, sums[4] = {};  // four of each, as above
    const auto add = [&](int v, std::int64_t j, std::int64_t n) __attribute__((always_inline)) {
      const simd::Floats g = load_lanes<isa>(dy + j, n) * load_lanes<isa>(scale + j, n);
      products[v] += g * centred(load_lanes<isa>(x + j, n), m);
      if constexpr (kCentred) sums[v] += g;
    };
    std::int64_t j = 0;
    for (; j + 4 * simd::kLanes <= columns; j += 4 * simd::kLanes)
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) add(v, j + v * simd::kLanes, simd::kLanes);
    for_lanes(
        columns - j, [&](std::int64_t k, std::int64_t n)
                         __attribute__((always_inline)) { add(0, j + k, n); });
    const float g_x = simd::sum((products[0] + products[1]) + (products[2] + products[3])),
                g_1 = simd::sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
    const auto width = static_cast<float>(columns);
    const simd::Floats slope = r * r * (g_x / width), middle(g_1 / width);
    for_lanes(
        columns, [&](std::int64_t k, std::int64_t n) __attribute__((always_inline)) {
          const simd::Floats g = centred(load_lanes<isa>(dy + k, n) * load_lanes<isa>(scale + k, n), middle);
          simd::Floats v = (g - centred(load_lanes<isa>(x + k, n), m) * slope) * r;
          if (addend) v += load_lanes<isa>(addend + k, n);
          store_lanes<isa>(dx + k, v, n);
        });
  }

  template <simd::Isa isa, class T>
  [[gnu::always_inline]] static void of_parameters(const T* dy, const T* x, const simd::Floats* m,
                                                   const simd::Floats* r, float* d_scale, float* d_shift,
                                                   std::int64_t rows, std::int64_t columns) {
    for_lanes(
        columns, [&](std::int64_t j, std::int64_t n) __attribute__((always_inline)) {
          simd::Floats products{}, sum{};
          for (std::int64_t i = 0; i < rows; ++i) {
            const simd::Floats d = load_lanes<isa>(dy + i * columns + j, n);
            products += d * (centred(load_lanes<isa>(x + i * columns + j, n), m[i]) * r[i]);
            if constexpr (kCentred) sum += d;
          }
          add_lanes<isa>(d_scale + j, products, n);
          if constexpr (kCentred) add_lanes<isa>(d_shift + j, sum, n);
        });
  }
  template <simd::Isa isa>
  [[gnu::always_inline]] static void add_lanes(float* to, const simd::Floats& v, std::int64_t n) {
    store_lanes<isa>(to, load_lanes<isa>(to, n) + v, n);
  }
};

}  // namespace offsite::ops::detail
