#include <ATen/Parallel.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>

#include <vector>

#include "offsite/ops/dropout.hpp"
#include "support/tensors.hpp"
#include "support/test.hpp"

namespace dropout_test {

using namespace offsite;

TEST_CASE("DropoutRow: single columns and vectors draw the same mask, in every instruction set and width") {
  const auto mask = ops::DropoutRow::of(derive_key(5, 1, 2), 0.3);
  support::for_each_isa([&] {
    for (const auto type : {at::kFloat, at::kBFloat16})
      for (const std::int64_t width : {1, 16, 37}) {
        const at::Tensor x = at::ones({1, width}, type);
        ops::dropout_(x, {mask});
        const at::Tensor values = x.to(at::kFloat);
        for (std::int64_t j = 0; j < width; ++j)
          CHECK(values[0][j].item<float>() == doctest::Approx(mask.factor(j)).epsilon(4e-3));
      }
  });
}

TEST_CASE(
    "dropout: keeps the share and the mean it should, independently between rows, columns, places and keys") {
  const std::vector<std::int64_t> lengths{300, 200};
  const auto s = Sequences::of(lengths);
  for (const double rate : {0.1, 0.5, 0.9}) {
    const at::Tensor x = at::ones({500, 400}), other = at::ones({500, 400}), later = at::ones({500, 400});
    ops::dropout_(x, ops::residual_masks(s, {}, rate, 1, 1));
    ops::dropout_(other, ops::residual_masks(s, {}, rate, 1, 2));
    ops::dropout_(later, ops::residual_masks(s, {}, rate, 2, 1));
    const double count = 200'000, deviation = std::sqrt(rate * (1 - rate) / count);
    CHECK(std::abs(x.ne(0).to(at::kFloat).mean().item<double>() - (1 - rate)) < 5 * deviation);
    CHECK(x.max().item<double>() == doctest::Approx(1 / (1 - rate)));
    const auto correlation = [&](const at::Tensor& a, const at::Tensor& b) {
      return a.sub(1).mul(b.sub(1)).mean().item<double>() * (1 - rate) / rate;
    };
    CHECK(std::abs(correlation(x, other)) < 0.012);
    CHECK(std::abs(correlation(x, later)) < 0.012);
    CHECK(std::abs(correlation(x.narrow(0, 0, 499), x.narrow(0, 1, 499))) < 0.012);
    CHECK(std::abs(correlation(x.narrow(1, 0, 399), x.narrow(1, 1, 399))) < 0.012);
    CHECK(std::abs(correlation(x.narrow(0, 0, 200), x.narrow(0, 300, 200))) < 0.02);
  }
}

TEST_CASE("dropout: masks follow sample and position, not packing, chosen rows or threads") {
  const std::vector<std::int64_t> lengths{4, 9}, alone{9};
  auto packed = Sequences::of(lengths), single = Sequences::of(alone);
  packed.samples = {11, 42};
  single.samples = {42};
  const at::Tensor all = at::ones({13, 33}), one = at::ones({9, 33}), some = at::ones({3, 33});
  at::set_num_threads(2);
  ops::dropout_(all, ops::residual_masks(packed, {}, 0.5, 7, 1));
  at::set_num_threads(1);
  ops::dropout_(one, ops::residual_masks(single, {}, 0.5, 7, 1));
  const at::Tensor rows = support::longs({0, 4, 12});
  ops::dropout_(some, ops::residual_masks(packed, rows, 0.5, 7, 1));
  CHECK(at::equal(all.narrow(0, 4, 9), one));
  CHECK(at::equal(all.index_select(0, rows), some));
  CHECK_THROWS_AS((void)ops::residual_masks(packed, {}, 1.0, 7, 1), ArgumentError);
  CHECK_THROWS_AS(ops::dropout_(all, ops::residual_masks(single, {}, 0.5, 7, 1)), ArgumentError);
}

}  // namespace dropout_test
