#include "offsite/ops/product.hpp"

#include <ATen/Parallel.h>
#include <ATen/ops/add.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/sub.h>
#include <c10/core/GradMode.h>

#include <limits>

#include "support/tensors.hpp"
#include "support/test.hpp"

namespace float_product_test {

using namespace offsite;

/// Small integers: their products and sums are exact in every order, so results must be equal, not close.
at::Tensor integers(at::IntArrayRef shape) { return at::randint(-2, 3, shape).to(at::kFloat); }

bool is_fast() {
  c10::NoGradGuard no_grad;
  return ops::TiledProduct::serves(integers({256, 64}), integers({64, 64}));
}

TEST_CASE("product of float32: tiles give what the operator gives, for every layout and edge") {
  c10::NoGradGuard no_grad;
  at::manual_seed(1);
  struct Case {
    std::int64_t rows, depth, columns;
  };
  // Depths on both sides of what is summed at a time; rows and columns that end in whole tiles and in parts of them.
  for (const auto& [rows, depth, columns] :
       {Case{256, 64, 64}, Case{320, 1600, 192}, Case{259, 769, 200}, Case{577, 131, 65}, Case{300, 1, 127},
        Case{271, 768, 128}, Case{640, 900, 130}}) {
    const at::Tensor x = integers({rows, depth}), bias = integers({columns});
    const at::Tensor in_out = integers({depth, columns}), out_in = in_out.t().contiguous();
    const at::Tensor want = at::addmm(bias, x, in_out);
    for (const at::Tensor& w : {in_out, out_in.t()}) {
      CHECK(ops::TiledProduct::serves(x, w, bias) == is_fast());
      CHECK(at::equal(ops::product(x, w, bias), want));
      CHECK(at::equal(ops::product(x, w), at::sub(want, bias)));
    }
  }
}

TEST_CASE("product of float32: slices are taken as they lie") {
  c10::NoGradGuard no_grad;
  at::manual_seed(2);
  const at::Tensor x = integers({300, 257}).narrow(1, 63, 129);
  const at::Tensor in_out = integers({129, 384}), out_in = integers({384, 131});
  for (const at::Tensor& w : {in_out.narrow(1, 127, 256), out_in.narrow(0, 128, 256).narrow(1, 1, 129).t()}) {
    CHECK(ops::TiledProduct::serves(x, w) == is_fast());
    CHECK(at::equal(ops::product(x, w), at::mm(x, w)));
  }
}

TEST_CASE("product of float32: what tiles cannot take goes to the operators") {
  c10::NoGradGuard no_grad;
  const auto refused = [](const at::Tensor& x, const at::Tensor& w, const at::Tensor& bias = {}) {
    return !ops::TiledProduct::serves(x, w, bias);
  };
  const at::Tensor x = integers({300, 128}), w = integers({128, 128});
  CHECK(refused(integers({255, 128}), w));                      // too few rows to pay for packing
  CHECK(refused(x, integers({128, 63})));                       // too few columns
  CHECK(refused(x, w.to(at::kBFloat16)));                       // two types
  CHECK(refused(x, w, integers({128}).to(at::kBFloat16)));      // nor may the bias have another
  CHECK(refused(integers({300, 0}), integers({0, 128})));       // nothing to sum
  CHECK(refused(integers({300, 256}).slice(1, 0, 256, 2), w));  // rows that are not dense
  CHECK(refused(x, integers({128, 256}).slice(1, 0, 256, 2)));  // nor is the weight
  {
    const c10::AutoGradMode grad(true);
    CHECK(refused(x, w));  // a graph is wanted
  }
  support::for_each_isa([&] {
    if (simd::chosen_isa() < simd::Isa::kAvx512Bf16) CHECK(refused(x, w));
  });
}

TEST_CASE("product of float32: as exact as its numbers allow, and what is not a number stays") {
  c10::NoGradGuard no_grad;
  at::manual_seed(3);
  const at::Tensor x = at::randn({290, 1000}), w = at::randn({1000, 192}), bias = at::randn({192});
  const at::Tensor exact = at::addmm(bias.to(at::kDouble), x.to(at::kDouble), w.to(at::kDouble));
  CHECK(at::sub(ops::product(x, w, bias).to(at::kDouble), exact).abs().max().item<double>() < 1e-3);

  x[100].fill_(std::numeric_limits<float>::quiet_NaN());
  x[289].fill_(std::numeric_limits<float>::infinity());
  const at::Tensor z = ops::product(x, w.abs(), bias);
  CHECK(z[100].isnan().all().item<bool>());
  CHECK(z[289].eq(std::numeric_limits<float>::infinity()).all().item<bool>());
  CHECK(!z.narrow(0, 0, 100).isnan().any().item<bool>());
  CHECK(!z.narrow(0, 101, 189).isnan().any().item<bool>());
}

TEST_CASE("product of float32: neither threads nor the rows and columns beside it change a number's bits") {
  c10::NoGradGuard no_grad;
  at::manual_seed(4);
  const at::Tensor x = at::randn({700, 1600}), w = at::randn({1600, 448}), bias = at::randn({448});
  const auto threads = at::get_num_threads();
  at::set_num_threads(1);
  const at::Tensor y = ops::product(x, w, bias);
  at::set_num_threads(3);
  CHECK(at::equal(ops::product(x, w, bias), y));
  if (is_fast()) {
    CHECK(at::equal(ops::product(x.narrow(0, 37, 301), w, bias), y.narrow(0, 37, 301)));
    CHECK(at::equal(ops::product(x, w.narrow(1, 5, 259), bias.narrow(0, 5, 259)), y.narrow(1, 5, 259)));
  }
  at::set_num_threads(threads);
}

TEST_CASE("product of float32: few rows times a weight dense along the depth, for every edge") {
  c10::NoGradGuard no_grad;
  at::manual_seed(5);
  struct Case {
    std::int64_t rows, depth, columns;
  };
  for (const auto& [rows, depth, columns] :
       {Case{8, 64, 64}, Case{43, 131, 595}, Case{64, 1, 127}, Case{117, 1601, 65}, Case{255, 768, 200}}) {
    const at::Tensor x = integers({rows, depth}), bias = integers({columns}), w = integers({columns, depth});
    CHECK(ops::TransposedProduct::serves(x, w.t(), bias) == is_fast());
    const at::Tensor want = at::addmm(bias, x, w.t());
    CHECK(at::equal(ops::product(x, w.t(), bias), want));
    CHECK(at::equal(ops::product(x, w.t()), at::sub(want, bias)));
    // Rows of wider ones, and a part of a fused weight, from the middle.
    const at::Tensor part = integers({rows + 2, depth + 5}).narrow(0, 1, rows).narrow(1, 3, depth),
                     slice = integers({columns + 5, depth + 3}).narrow(0, 2, columns).narrow(1, 1, depth).t();
    CHECK(ops::TransposedProduct::serves(part, slice) == is_fast());
    CHECK(at::equal(ops::product(part, slice), at::mm(part, slice)));
  }
  const at::Tensor w = integers({96, 128}).t();
  CHECK(!ops::TransposedProduct::serves(integers({7, 128}), w));    // too few to gain
  CHECK(!ops::TransposedProduct::serves(integers({256, 128}), w));  // enough to pay for packing the weight
}

TEST_CASE("product of float32: few rows times a weight dense along its columns, for every edge") {
  c10::NoGradGuard no_grad;
  at::manual_seed(7);
  struct Case {
    std::int64_t rows, depth, columns;
  };
  for (const auto& [rows, depth, columns] : {Case{1, 64, 64}, Case{12, 257, 95}, Case{43, 131, 595},
                                             Case{64, 1, 127}, Case{97, 300, 65}, Case{127, 128, 200}}) {
    const at::Tensor x = integers({rows, depth}), bias = integers({columns}), w = integers({depth, columns});
    CHECK(ops::DirectProduct::serves(x, w, bias) == is_fast());
    const at::Tensor want = at::addmm(bias, x, w);
    CHECK(at::equal(ops::product(x, w, bias), want));
    CHECK(at::equal(ops::product(x, w), at::sub(want, bias)));
    // Rows of wider ones, and a part of a fused weight, from the middle; what lies beside them is not a number.
    const at::Tensor part = integers({rows + 2, depth + 5}).narrow(0, 1, rows).narrow(1, 3, depth);
    const at::Tensor fused = at::full({depth + 3, columns + 5}, std::numeric_limits<float>::quiet_NaN()),
                     slice = fused.narrow(0, 2, depth).narrow(1, 1, columns);
    slice.copy_(w);
    CHECK(ops::DirectProduct::serves(part, slice) == is_fast());
    CHECK(at::equal(ops::product(part, slice), at::mm(part, w)));
  }
  CHECK(!ops::DirectProduct::serves(integers({128, 128}), integers({128, 96})));  // too many rows to gain
}

TEST_CASE("product of float32: a number's bits are the same for few rows and for many") {
  c10::NoGradGuard no_grad;
  at::manual_seed(6);
  const at::Tensor x = at::randn({260, 1000}), w = at::randn({200, 1000}).t(), bias = at::randn({200});
  const at::Tensor y = ops::product(x, w, bias);
  const auto threads = at::get_num_threads();
  for (const int count : {1, 3}) {
    at::set_num_threads(count);
    if (!is_fast()) continue;
    CHECK(at::equal(ops::product(x.narrow(0, 13, 101), w, bias), y.narrow(0, 13, 101)));
    const at::Tensor in_out = w.contiguous(), few = ops::product(x.narrow(0, 13, 101), in_out, bias);
    CHECK(at::equal(ops::product(x.narrow(0, 20, 5), in_out, bias), few.narrow(0, 7, 5)));
  }
  at::set_num_threads(threads);
}

}  // namespace float_product_test
