// How fast is a training step? Offsite tuning of a GPT-2-small shape, 2 bottom and 2 top blocks around an emulator of
// 4, on 16 sequences of SciQ's lengths, by the client's own training loop.
//   step [float32|bfloat16] [SECONDS] [THREADS]
// Prints packed rows a second, milliseconds a step, and the share of the speed of a plain matrix product of that type
// and size, measured before and after: machines drift, and the share drifts less.
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string_view>
#include <vector>

#include "offsite/core/process.hpp"
#include "offsite/models/gpt2.hpp"
#include "offsite/trainer/offsite_tuning.hpp"

namespace {

using namespace offsite;

constexpr int kWarmUp = 2;           // steps that are not timed
constexpr std::int64_t kScored = 4;  // scored tokens a sequence

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Gflop/s of the best of some products of a feed-forward layer's size.
double gemm_peak(at::ScalarType type, std::int64_t rows) {
  const c10::NoGradGuard no_grad;
  const at::Tensor x = at::ones({rows, 768}, type), w = at::ones({768, 3072}, type);
  double best = 1e9;
  for (int i = 0; i < 40; ++i) {
    const double start = now();
    at::mm(x, w);
    best = std::min(best, now() - start);
  }
  return 2e-9 * static_cast<double>(rows) * 768 * 3072 / best;
}

/// Lengths are log-normal with a median of about 100 tokens and a long tail, as SciQ's are.
std::vector<Sample> sciq_like(std::size_t count) {
  std::mt19937 random(1);
  std::lognormal_distribution<double> length(4.6, 0.5);
  std::vector<std::int64_t> lengths;
  for (std::size_t i = 0; i < count; ++i)
    lengths.push_back(std::clamp<std::int64_t>(static_cast<std::int64_t>(length(random)), 20, 600) + 1);
  std::vector<Sample> samples;
  for (const auto n : lengths) {
    Sample sample{{}, n - kScored, static_cast<std::int64_t>(samples.size())};
    for (std::int64_t i = 0; i < n; ++i) sample.tokens.push_back(static_cast<std::int32_t>(random() % 50257));
    samples.push_back(std::move(sample));
  }
  return samples;
}

/// Work of a step's linear layers as executed, in Gflop: a block has 12 C^2 weights; each costs 2 operations a row
/// forward, 2 for its input's gradient and, if it trains, 2 for its own.
double linear_work(double rows, double scored) {
  constexpr double kSquare = 768.0 * 768, kBlock = 12 * kSquare;
  const double frozen = 4 * 4 * kBlock * rows, trained = 3 * 6 * kBlock * rows;
  const double last = 6 * (2 * kSquare * rows + 10 * kSquare * scored);  // keys and values of all rows
  return 1e-9 * (frozen + trained + last + 4 * 50257.0 * 768 * scored);
}

int run(at::ScalarType type, double seconds) {
  const auto samples = sciq_like(16);
  Gpt2Config config;
  OffsiteTuning tuner{Gpt2::random(config, 0), {.emulator_blocks = 4, .dtype = type}};
  double rows = 0;
  for (const auto& sample : samples) rows += static_cast<double>(sample.rows());
  const double scored = static_cast<double>(samples.size()) * kScored;

  const double peak_before = gemm_peak(type, static_cast<std::int64_t>(rows));
  std::vector<double> times;
  rusage before{}, after{};
  double start = 0, loss = 0;
  const auto timed = observe([&](const StepEvent& e) {
    if (e.step == kWarmUp) {
      getrusage(RUSAGE_SELF, &before);
      start = now();
    }
    if (e.step > kWarmUp) times.push_back(e.seconds);
    loss = e.loss;
  });
  tuner.train(
      samples,
      {.learning_rate = 5e-5,
       .max_steps = 1'000'000,
       .batch_size = 16,
       .weight_decay = 0.01,
       .shuffle = false},
      {.observers = {timed}, .interrupted = [&] { return !times.empty() && now() - start > seconds; }});
  getrusage(RUSAGE_SELF, &after);
  const double peak = 0.5 * (peak_before + gemm_peak(type, static_cast<std::int64_t>(rows)));

  double total = 0;
  for (const double t : times) total += t;
  const double mean = total / static_cast<double>(times.size()),
               best = *std::min_element(times.begin(), times.end());
  std::sort(times.begin(), times.end());
  const double median = times[times.size() / 2], work = linear_work(rows, scored);
  std::printf("%s, %d threads, %.0f rows, %.0f scored\n", type == at::kFloat ? "float32" : "bfloat16",
              at::get_num_threads(), rows, scored);
  std::printf("rows/s        %.0f mean, %.0f median, %.0f best\n", rows / mean, rows / median, rows / best);
  std::printf("ms a step     %.1f mean, %.1f median, %.1f best of %zu\n", 1e3 * mean, 1e3 * median,
              1e3 * best, times.size());
  const auto seconds_of = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  const double cpu =
      (seconds_of(after.ru_utime) - seconds_of(before.ru_utime)) / static_cast<double>(times.size());
  std::printf("ms a step     %.1f of processor time, all threads\n", 1e3 * cpu);
  std::printf("products      %.0f of %.0f Gflop/s: %.0f %%\n", work / mean, peak, 100 * work / mean / peak);
  std::printf("page faults   %ld a step\n",
              (after.ru_minflt - before.ru_minflt) / static_cast<long>(times.size()));
  std::printf("memory        %ld MB at most; last loss %.3f\n", after.ru_maxrss / 1024, loss);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string_view type = argc > 1 ? argv[1] : "bfloat16";
  const double seconds = argc > 2 ? std::atof(argv[2]) : 12;
  const int threads = argc > 3 ? std::atoi(argv[3]) : 2;
  if ((type != "float32" && type != "bfloat16") || seconds <= 0 || threads <= 0) {
    std::fprintf(stderr, "step [float32|bfloat16] [SECONDS] [THREADS]\n");
    return 2;
  }
  keep_freed_memory();
  at::globalContext().setFlushDenormal(true);
  at::set_num_threads(threads);
  return run(type == "float32" ? at::kFloat : at::kBFloat16, seconds);
}
