// A user's program: includes everything, uses a little that needs LibTorch, fmt and Eigen at run time.
#include <ATen/ops/ones.h>
#include <offsite/offsite.hpp>

#include <cstdio>

int main() {
  const auto order = offsite::permutation(3, 42);
  const double sum = at::ones({static_cast<std::int64_t>(order.size())}).sum().item<double>();
  std::printf("consumed %.0f\n", sum);
  return sum == 3 ? 0 : 1;
}
