#pragma once
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/log_softmax.h>

#include <cmath>
#include <cstdint>

#include "offsite/core/error.hpp"
#include "offsite/ops/accumulate.hpp"
#include "offsite/ops/simd.hpp"

namespace offsite::ops {
namespace detail {

/// One row of logits: log(sum(exp)) and, if asked for, the first of the largest or the gradient in place.
struct LogSumExpKernel {
  template <simd::Isa, class T>
  [[gnu::always_inline]] static void run(T* x, std::int64_t n, float* result, std::int64_t* best,
                                         bool in_place, float scale) {
    const auto whole = n / simd::kLanes * simd::kLanes;
    float top = static_cast<float>(x[0]);
    if (whole > 0) {
      simd::Floats lanes = simd::load(x);
      for (std::int64_t j = simd::kLanes; j < whole; j += simd::kLanes)
        lanes = simd::max(lanes, simd::load(x + j));
      top = simd::max(lanes);
    }
    for (auto j = whole; j < n; ++j) top = static_cast<float>(x[j]) > top ? static_cast<float>(x[j]) : top;
    if (best) {
      *best = 0;
      for (std::int64_t j = 0; j < n; ++j)
        if (static_cast<float>(x[j]) == top) {
          *best = j;
          break;
        }
    }
    simd::Floats total{};
    for (std::int64_t j = 0; j < whole; j += simd::kLanes) total += simd::exp(simd::load(x + j) - top);
    double sum = simd::sum(total);
    for (auto j = whole; j < n; ++j) sum += std::exp(static_cast<float>(x[j]) - top);
    *result = static_cast<float>(top + std::log(sum));
    if (!in_place) return;
    const float factor = scale / static_cast<float>(sum);
    for (std::int64_t j = 0; j < whole; j += simd::kLanes)
      simd::store(x + j, simd::exp(simd::load(x + j) - top) * factor);
    for (auto j = whole; j < n; ++j) x[j] = static_cast<T>(std::exp(static_cast<float>(x[j]) - top) * factor);
  }
};

inline void check_targets(const at::Tensor& logits, const at::Tensor& targets) {
  require(logits.dim() == 2 && logits.size(1) > 0 && is_fast(logits) && logits.stride(1) == 1,
          "logits must be (rows, vocabulary) of float32 or bfloat16 on the CPU, but they have {} dimensions "
          "of type {}",
          logits.dim(), logits.dtype().name());
  require(targets.dim() == 1 && targets.scalar_type() == at::kLong && targets.is_contiguous() &&
              targets.numel() == logits.size(0),
          "{} targets of type {} were given for {} rows of logits, but each row wants one of int64",
          targets.numel(), targets.dtype().name(), logits.size(0));
  const auto* target = targets.const_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < targets.numel(); ++i)
    require(0 <= target[i] && target[i] < logits.size(1),
            "target {} of row {} is outside the vocabulary of {}", target[i], i, logits.size(1));
}

}  // namespace detail

/// log softmax(logits)[target] of each row, (M) float32, differentiable by autograd: the reference.
[[nodiscard]] inline at::Tensor log_probabilities_reference(const at::Tensor& logits,
                                                            const at::Tensor& targets) {
  return at::log_softmax(logits.to(at::kFloat), 1).gather(1, targets.unsqueeze(1)).squeeze(1);
}

struct LogProbabilities {
  at::Tensor values;  ///< (M) float32, natural logarithms
  at::Tensor best;    ///< (M) int64: the first of the largest logits; undefined unless asked for
};

/// Logits (M, V) and targets (M) int64 -> the targets' log-probabilities.
/// \throws ArgumentError for a target outside the vocabulary.
[[nodiscard]] inline LogProbabilities log_probabilities(const at::Tensor& logits, const at::Tensor& targets,
                                                        bool want_best = false) {
  detail::check_targets(logits, targets);
  LogProbabilities result{at::empty({logits.size(0)}, at::kFloat), {}};
  if (want_best) result.best = at::empty({logits.size(0)}, at::kLong);
  const auto* target = targets.const_data_ptr<std::int64_t>();
  auto* value = result.values.mutable_data_ptr<float>();
  auto* best = want_best ? result.best.mutable_data_ptr<std::int64_t>() : nullptr;
  with_type(logits, [&]<class T>(T*) {
    auto* x = static_cast<T*>(logits.data_ptr());  // only read: the kernel writes where it is told to
    const auto n = logits.size(1), ld = logits.stride(0);
    at::parallel_for(0, logits.size(0), 1, [&](std::int64_t begin, std::int64_t end) {
      for (auto i = begin; i < end; ++i) {
        float lse = 0;
        simd::run<detail::LogSumExpKernel>(x + i * ld, n, &lse, best ? best + i : nullptr, false, 0.0f);
        value[i] = static_cast<float>(x[i * ld + target[i]]) - lse;
      }
    });
  });
  return result;
}

struct CrossEntropy {
  double sum = 0;                ///< of the rows' losses, in nats, not scaled
  at::Tensor log_probabilities;  ///< (M) float32, of the targets
};

/// `cross_entropy_` by ATen's operators, on any device; targets are not checked.
[[nodiscard]] inline CrossEntropy cross_entropy_reference_(const at::Tensor& logits,
                                                           const at::Tensor& targets, double scale) {
  const at::Tensor places = targets.unsqueeze(1), all = at::log_softmax(logits.to(at::kFloat), 1);
  const at::Tensor values = all.gather(1, places).squeeze(1);
  const at::Tensor d = all.exp();
  d.scatter_(1, places, values.unsqueeze(1).expm1());
  logits.copy_(d.mul_(scale));
  return {-values.to(at::kDouble).sum().item<double>(), values};
}

/// Cross-entropy and its gradient: overwrites logits (M, V) with scale * (softmax(logits) - onehot(targets)).
///
/// Two passes over the logits and no temporary. With scale 1 / count the loss is a mean.
/// \throws ArgumentError for a target outside the vocabulary, before anything is written.
[[nodiscard]] inline CrossEntropy cross_entropy_(const at::Tensor& logits, const at::Tensor& targets,
                                                 double scale) {
  if (!logits.is_cpu()) return cross_entropy_reference_(logits, targets, scale);
  detail::check_targets(logits, targets);
  CrossEntropy result{0, at::empty({logits.size(0)}, at::kFloat)};
  const auto* target = targets.const_data_ptr<std::int64_t>();
  auto* value = result.log_probabilities.mutable_data_ptr<float>();
  with_type(logits, [&]<class T>(T*) {
    auto* x = logits.mutable_data_ptr<T>();
    const auto n = logits.size(1), ld = logits.stride(0);
    const auto factor = static_cast<float>(scale);
    at::parallel_for(0, logits.size(0), 1, [&](std::int64_t begin, std::int64_t end) {
      for (auto i = begin; i < end; ++i) {
        T* row = x + i * ld;
        const float wanted = static_cast<float>(row[target[i]]);
        float lse = 0;
        simd::run<detail::LogSumExpKernel>(row, n, &lse, static_cast<std::int64_t*>(nullptr), true, factor);
        value[i] = wanted - lse;
        // From the loss itself: in bfloat16 the stored softmax has too few digits near 1.
        row[target[i]] = static_cast<T>(factor * std::expm1(value[i]));
      }
    });
  });
  for (std::int64_t i = 0; i < targets.numel(); ++i) result.sum -= value[i];
  return result;
}

}  // namespace offsite::ops
