#include "step_profile/floors.hpp"

#include <ATen/Parallel.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "common.hpp"
#include "offsite/ops/activation.hpp"
#include "offsite/ops/simd.hpp"
#include "step_profile/softmax_floor.hpp"

namespace bench {
namespace {

using namespace offsite;

/// The least time of all processors that `f` takes, in seconds: by the clock, since processor time of less than some
/// milliseconds is not known well.
template <class F>
double best_of(int tries, const F& f) {
  double best = 1e9;
  for (int i = 0; i < tries; ++i) {
    const double begin = now();
    f();
    best = std::min(best, now() - begin);
  }
  return best * at::get_num_threads();
}

/// `f(thread)` in all threads at once.
template <class F>
void in_all_threads(const F& f) {
  at::parallel_for(0, at::get_num_threads(), 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto thread = begin; thread < end; ++thread) f(thread);
  });
}

struct UpdateKernel {
  template <simd::Isa>
  [[gnu::always_inline]] static void run(float* x, std::int64_t n) {
    for (std::int64_t i = 0; i + simd::kLanes <= n; i += simd::kLanes)
      simd::store(x + i, simd::load(x + i) + 1.0f);
  }
};

double speed_of_products(at::ScalarType type) {
  const at::Tensor x = at::ones({1472, 768}, type), w = at::ones({768, 3072}, type);
  return 3 * 2.0 * 1472 * 768 * 3072 / best_of(40, [&] {
           for (int k = 0; k < 3; ++k) at::mm(x, w);
         });
}

/// Bytes a second of an update in place of `bytes`, `times` over.
double speed_of_updates(std::int64_t bytes, int times) {
  const auto n = bytes / 4;
  at::Tensor all = at::ones({n}, at::kFloat);
  auto* data = all.mutable_data_ptr<float>();
  return 2.0 * times * static_cast<double>(bytes) / best_of(30, [&] {
           for (int k = 0; k < times; ++k)
             at::parallel_for(0, n, 16384, [&](std::int64_t begin, std::int64_t end) {
               simd::run<UpdateKernel>(data + begin, end - begin);
             });
         });
}

/// Seconds for one number of `f(tensor)`, where each thread has a tensor of its own in its first cache.
template <class F>
double time_of_one(at::ScalarType type, const F& f) {
  constexpr std::int64_t kNumbers = 4096, kTimes = 500;
  std::vector<at::Tensor> own;
  for (int i = 0; i < at::get_num_threads(); ++i) own.push_back(at::randn({kNumbers}).to(type));
  const auto seconds = best_of(30, [&] {
    in_all_threads([&](std::int64_t thread) {
      for (std::int64_t k = 0; k < kTimes; ++k) f(own[static_cast<std::size_t>(thread)]);
    });
  });
  return seconds / static_cast<double>(kNumbers * kTimes * at::get_num_threads());
}

/// What softmax reads and writes, within the first cache.
template <class T>
struct SoftmaxOperands {
  static constexpr std::int64_t kKeys = 48, kPairs = 32 * kKeys;
  std::vector<float> scores = std::vector<float>(kPairs, 0.5f), gradients = scores, kept = scores,
                     lse = std::vector<float>(32);
  std::vector<T> p = std::vector<T>(kPairs), ds = p;

  void forward() {
    simd::run<SoftmaxForwardKernel<T>>(scores.data(), std::int64_t{kKeys}, 0.18f, p.data(), lse.data());
  }
  void backward() {
    simd::run<SoftmaxBackwardKernel<T>>(scores.data(), gradients.data(), std::int64_t{kKeys}, 0.18f,
                                        lse.data(), kept.data(), p.data(), ds.data());
  }
};

/// Seconds for one pair of a query and a key of one head.
template <class T>
double time_of_pair(void (SoftmaxOperands<T>::*pass)()) {
  constexpr std::int64_t kTimes = 1000;
  std::vector<SoftmaxOperands<T>> own(static_cast<std::size_t>(at::get_num_threads()));
  const auto seconds = best_of(30, [&] {
    in_all_threads([&](std::int64_t thread) {
      for (std::int64_t k = 0; k < kTimes; ++k) (own[static_cast<std::size_t>(thread)].*pass)();
    });
  });
  return seconds / static_cast<double>(SoftmaxOperands<T>::kPairs * kTimes * at::get_num_threads());
}

template <class T>
std::pair<double, double> time_of_softmax() {
  return {time_of_pair(&SoftmaxOperands<T>::forward), time_of_pair(&SoftmaxOperands<T>::backward)};
}

}  // namespace

Floors Floors::measure(at::ScalarType type) {
  const c10::NoGradGuard no_grad;
  constexpr std::int64_t kBlock = 1900 * 3072;  // numbers
  const auto gelu = [](at::Tensor& x) { ops::activation_out(x, Activation::kGeluTanh, x); };
  const auto slope = [](at::Tensor& x) { ops::activation_backward_(x, x, Activation::kGeluTanh); };
  const auto softmax = type == at::kBFloat16 ? time_of_softmax<simd::BFloat16>() : time_of_softmax<float>();
  return {speed_of_products(type),
          speed_of_updates(std::int64_t{256} << 20, 1),
          speed_of_updates(kBlock * static_cast<std::int64_t>(c10::elementSize(type)), 4),
          softmax.first,
          softmax.second,
          time_of_one(type, gelu),
          time_of_one(type, slope)};
}

}  // namespace bench
