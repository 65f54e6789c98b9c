// How many operations a second the processor's own instructions for sums of products reach, when all that they read is in
// registers: what no product of matrices, of any library, can be above. And how many offsite's tiles reach ("kernel
// bfloat16") on rows and a part of a block as its products have them, which stay in the second cache. All threads at once, for
// `seconds` each; prints the best of many short tries and their mean.
//   peak [threads=2] [seconds=1]
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <ATen/ops/ones.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <thread>
#include <type_traits>
#include <vector>

#include "common.hpp"
#include "offsite/core/simd.hpp"
#include "offsite/ops/product_tile.hpp"
#include "offsite/ops/tiled_product.hpp"

namespace {

using offsite::simd::Isa;
namespace detail = offsite::ops::detail;

constexpr int kSums = 16;                 // independent ones: more than the instructions in flight
constexpr std::int64_t kSteps = 1 << 18;  // of each of them, a try

/// What a try computed, so that it is not optimised away, and its operations.
struct Try {
  float sum;
  double operations;
};

#if defined(__x86_64__)
[[gnu::target("avx512f,avx512bw,avx512vl,avx512bf16")]] Try pairs_of_512() {
  __m512 sums[kSums] = {};
  for (auto& sum : sums) asm volatile("" : "+v"(sum));  // or the compiler makes one of all
  __m512i ones = _mm512_set1_epi32(0x3f803f80);         // two of bfloat16
  for (std::int64_t i = 0; i < kSteps; ++i) {
    asm volatile("" : "+v"(ones));
#pragma GCC unroll 16
    for (auto& sum : sums)
      sum = _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(ones), reinterpret_cast<__m512bh>(ones));
  }
  float total = 0;
  for (const auto& sum : sums) total += sum[0];
  return {total, 64.0 * kSums * kSteps};
}

[[gnu::target("avx512f")]] Try singles_of_512() {
  __m512 sums[kSums] = {};
  for (auto& sum : sums) asm volatile("" : "+v"(sum));  // or the compiler makes one of all
  __m512 ones = _mm512_set1_ps(1);
  for (std::int64_t i = 0; i < kSteps; ++i) {
    asm volatile("" : "+v"(ones));
#pragma GCC unroll 16
    for (auto& sum : sums) sum = _mm512_fmadd_ps(ones, ones, sum);
  }
  float total = 0;
  for (const auto& sum : sums) total += sum[0];
  return {total, 32.0 * kSums * kSteps};
}

[[gnu::target("avx2,fma")]] Try singles_of_256() {
  constexpr int kFew = 12;  // there are sixteen registers
  __m256 sums[kFew] = {};
  for (auto& sum : sums) asm volatile("" : "+x"(sum));  // or the compiler makes one of all
  __m256 ones = _mm256_set1_ps(1);
  for (std::int64_t i = 0; i < kSteps; ++i) {
    asm volatile("" : "+x"(ones));
#pragma GCC unroll 16
    for (auto& sum : sums) sum = _mm256_fmadd_ps(ones, ones, sum);
  }
  float total = 0;
  for (const auto& sum : sums) total += sum[0];
  return {total, 16.0 * kFew * kSteps};
}
#endif

using Loop = Try (*)();

/// The fastest instruction of this processor for numbers of bfloat16 or float32, or null where none is known here.
Loop loop_for([[maybe_unused]] bool bfloat16) {
#if defined(__x86_64__)
  const auto isa = offsite::simd::best_isa();
  if (bfloat16 && isa >= Isa::kAvx512Bf16) return pairs_of_512;
  if (isa >= Isa::kAvx512) return singles_of_512;
  if (isa >= Isa::kAvx2) return singles_of_256;
#endif
  return nullptr;
}

/// Some tiles of offsite's products, over and over.
template <class T>
class KernelLoop {
 public:
  Try operator()() {
    using Sums = detail::StoreSums<T>;
    const auto* left = reinterpret_cast<const char*>(a_.data());
    for (int i = 0; i < kTimes; ++i)
      for (std::int64_t row = 0; row < kRows; row += Tile::kRows)
        for (std::int64_t column = 0; column < kColumns; column += Tile::kColumns) {
          const detail::LeftCells cells{left + row * kRow, kRow, sizeof(std::uint32_t)};
          Tile::template function<Sums>(Tile::kRows, Tile::kColumns)(
              cells, b_.data() + column * kCells, kCells, Tile::kColumns,
              Sums{y_.data() + row * kColumns + column, kColumns, nullptr});
        }
    return {static_cast<float>(y_[0]), 2.0 * kRows * kColumns * kDepth * kTimes};
  }

 private:
  using Tile = detail::ProductTile<T>;
  // A block of float32 is half as wide: as many bytes.
  static constexpr std::int64_t kRows = 48, kColumns = std::is_same_v<T, float> ? 64 : 128, kDepth = 768,
                                kRow = kDepth * sizeof(T), kCells = kDepth / detail::kPerCell<T>;
  static constexpr int kTimes = 20;
  std::vector<T> a_ = std::vector<T>(kRows * kDepth, T(1)), y_ = std::vector<T>(kRows * kColumns);
  std::vector<std::uint32_t> b_ = std::vector<std::uint32_t>(kColumns * kCells);
};

/// Whether offsite's products are of tiles here.
bool has_kernel(at::ScalarType type) {
  return offsite::ops::TiledProduct::serves(at::ones({1472, 768}, type), at::ones({768, 3072}, type));
}

struct Speed {
  double best = 0, mean = 0;  // operations a second of all threads
};

/// Each thread makes a loop of its own.
template <class Make>
Speed speed_of(const Make& make, int threads, double seconds) {
  std::vector<Speed> found(static_cast<std::size_t>(threads));
  std::vector<std::thread> all;
  for (auto& own : found)
    all.emplace_back([&own, &make, seconds] {
      auto loop = make();
      volatile float kept = 0;
      double operations = 0;
      const double begin = bench::now();
      for (double last = begin; last < begin + seconds;) {
        const auto done = loop();
        kept = done.sum;
        operations += done.operations;
        const double end = bench::now();
        own.best = std::max(own.best, done.operations / (end - last));
        own.mean = operations / (end - begin);
        last = end;
      }
      static_cast<void>(kept);
    });
  Speed sum;
  for (std::size_t i = 0; i < all.size(); ++i) {
    all[i].join();
    sum.best += found[i].best;
    sum.mean += found[i].mean;
  }
  return sum;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const bench::Arguments arguments(argc, argv, {{"threads", "2"}, {"seconds", "1"}});
    const c10::NoGradGuard no_grad;
    auto all = offsite::Json::object({{"bench", "peak"}});
    const auto measure = [&](const std::string& name, const auto& make) {
      const auto speed =
          speed_of(make, static_cast<int>(arguments.number("threads")), arguments.real("seconds"));
      all[name] = 1e-9 * speed.best;
      all[name + " mean"] = 1e-9 * speed.mean;
    };
    for (const std::string type : {"bfloat16", "float32"})
      if (const auto loop = loop_for(type == "bfloat16")) measure(type, [loop] { return loop; });
    if (has_kernel(at::kBFloat16))
      measure("kernel bfloat16", [] { return KernelLoop<offsite::simd::BFloat16>(); });
    if (has_kernel(at::kFloat)) measure("kernel float32", [] { return KernelLoop<float>(); });
    std::printf("%s\n", all.dump().c_str());
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
