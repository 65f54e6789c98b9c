#pragma once
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>

#include <cmath>
#include <initializer_list>
#include <vector>

#include "offsite/ops/simd.hpp"
#include "support/test.hpp"  // last: see there

namespace support {

/// Normally distributed float32 values, the same for the same seed.
inline at::Tensor random(at::IntArrayRef shape, std::uint64_t seed, double deviation = 1) {
  return at::empty(shape, at::kFloat).normal_(0, deviation, at::make_generator<at::CPUGeneratorImpl>(seed));
}

inline at::Tensor longs(std::initializer_list<std::int64_t> values) {
  at::Tensor t = at::empty({static_cast<std::int64_t>(values.size())}, at::kLong);
  std::copy(values.begin(), values.end(), t.mutable_data_ptr<std::int64_t>());
  return t;
}

inline double magnitude(const at::Tensor& t) { return t.to(at::kDouble).norm().item<double>(); }

/// ||a - b|| / ||b||; infinite if the shapes differ or one of them is undefined.
inline double relative_error(const at::Tensor& a, const at::Tensor& b) {
  if (!a.defined() || !b.defined() || a.sizes() != b.sizes()) return INFINITY;
  const double difference = magnitude(a.to(at::kDouble).sub(b.to(at::kDouble))), size = magnitude(b);
  return size > 0 ? difference / size : difference;
}

/// What two ways to compute the same may differ by, relative to the whole tensor's norm.
inline double tolerance(at::ScalarType type) { return type == at::kFloat ? 2e-6 : 1.2e-2; }

/// Calls `f` once for each instruction set this processor has.
template <class F>
void for_each_isa(F&& f) {
  using offsite::simd::Isa;
  const Isa best = offsite::simd::best_isa();
  for (const auto isa : {Isa::kGeneric, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16}) {
    if (isa > best) continue;
    offsite::simd::chosen_isa() = isa;
    INFO("instruction set ", static_cast<int>(isa));
    f();
  }
  offsite::simd::chosen_isa() = best;
}

}  // namespace support
