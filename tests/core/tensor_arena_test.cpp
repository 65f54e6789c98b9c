#include "offsite/core/tensor_arena.hpp"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <sys/resource.h>

#include <random>
#include <vector>

#include "support/test.hpp"

namespace tensor_arena_test {

using namespace offsite;

namespace {

constexpr std::int64_t kMany = 1 << 20;  // float32 numbers: 4 MiB

/// Some tensors of changing sizes, as the steps of training have them; freed at the end.
void step(std::mt19937& random, double scale) {
  std::vector<at::Tensor> kept;
  for (int i = 0; i < 20; ++i) {
    const auto n = static_cast<std::int64_t>(scale * static_cast<double>(40'000 + random() % 400'000));
    kept.push_back(at::full({n}, static_cast<double>(i)));
    if (i % 3 == 2) kept.erase(kept.begin() + static_cast<std::ptrdiff_t>(random() % kept.size()));
  }
  double sum = 0;
  for (const auto& t : kept) {
    const auto* p = t.const_data_ptr<float>();
    CHECK(p[0] == p[t.numel() - 1]);  // nobody else wrote there
    sum += p[0];
  }
  CHECK(sum > 0);
}

std::int64_t faults() {
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  return used.ru_minflt;
}

}  // namespace

// One case, in this order: the arena stays for the rest of the process.
TEST_CASE("TensorArena: tensors go to the lowest gap, and steps of any length reuse memory") {
  static const at::Tensor before = at::full({kMany}, 1.0);
  REQUIRE(TensorArena::install());
  CHECK(TensorArena::install());
  CHECK(TensorArena::figures().in_use == 0);

  SUBCASE("figures and gaps") {
    auto a = at::empty({kMany}), b = at::empty({kMany}), c = at::empty({kMany});
    const auto* where = a.data_ptr();
    const auto full = TensorArena::figures();
    CHECK(full.in_use == 3 * 4 * kMany);
    CHECK(reinterpret_cast<std::uintptr_t>(b.data_ptr()) % 64 == 0);
    a.reset();
    const auto half = at::empty({kMany / 2}), other_half = at::empty({kMany / 2});
    CHECK(half.data_ptr() == where);
    CHECK(other_half.data_ptr() == half.const_data_ptr<float>() + kMany / 2);
    CHECK(TensorArena::figures().reached == full.reached);
    b.reset();
    c.reset();  // joined with b's gap and the end of the range
    const auto larger = at::empty({2 * kMany});
    CHECK(TensorArena::figures().reached == full.reached);
  }
  SUBCASE("a gap at the end grows") {
    { const auto a = at::empty({kMany}); }
    const auto before_growth = TensorArena::figures().reached;
    const auto larger = at::empty({static_cast<std::int64_t>(before_growth / 4) + kMany});
    CHECK(TensorArena::figures().reached == before_growth + 4 * kMany);
  }
  SUBCASE("steps of changing lengths") {
    std::mt19937 random(1);
    step(random, 1.5);
    const auto first = TensorArena::figures().reached;
    const auto start = faults();
    for (int i = 0; i < 200; ++i) step(random, 0.5 + static_cast<double>(i % 10) * 0.1);
    CHECK(TensorArena::figures().reached <= first + first / 2);
    CHECK(faults() - start < 20'000);  // 200 steps of some 20 MB write to a million pages
    CHECK(TensorArena::figures().in_use == 0);
    TensorArena::trim();
    CHECK(TensorArena::figures().reached == 0);
    const auto again = at::full({kMany}, 2.0);
    CHECK(again.const_data_ptr<float>()[kMany - 1] == 2.0f);
  }
  SUBCASE("many threads at a time") {
    at::parallel_for(0, 8, 1, [](std::int64_t begin, std::int64_t end) {
      for (auto i = begin; i < end; ++i) {
        std::mt19937 random(static_cast<unsigned>(i));
        step(random, 0.2);
      }
    });
    CHECK(TensorArena::figures().in_use == 0);
  }
  CHECK(before.const_data_ptr<float>()[kMany - 1] == 1.0f);
}

}  // namespace tensor_arena_test
