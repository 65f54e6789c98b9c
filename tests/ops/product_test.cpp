#include "offsite/ops/product.hpp"
#include "offsite/ops/low_rank.hpp"

#include <ATen/Context.h>
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
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <limits>

#include "support/tensors.hpp"
#include "support/test.hpp"

namespace product_test {

using namespace offsite;

/// Small integers: their products and sums are exact in every order, so results must be equal, not close.
at::Tensor integers(at::IntArrayRef shape) { return at::randint(-2, 3, shape).to(at::kBFloat16); }

bool is_fast() {
  c10::NoGradGuard no_grad;
  return ops::TiledProduct::serves(integers({512, 64}), integers({64, 64}));
}

TEST_CASE("product: tiles give what the operator gives, for every layout and edge") {
  c10::NoGradGuard no_grad;
  at::manual_seed(1);
  struct Case {
    std::int64_t rows, depth, columns;
  };
  for (const auto& [rows, depth, columns] :
       {Case{512, 64, 64}, Case{515, 66, 200}, Case{577, 130, 65}, Case{1023, 768, 320}, Case{600, 2, 127},
        Case{512, 8192, 600}, Case{256, 66, 200}}) {
    const at::Tensor x = integers({rows, depth}), bias = integers({columns});
    const at::Tensor in_out = integers({depth, columns}), out_in = in_out.t().contiguous();
    const at::Tensor want = at::addmm(bias.to(at::kFloat), x.to(at::kFloat), in_out.to(at::kFloat));
    for (const at::Tensor& w : {in_out, out_in.t()}) {
      CHECK(ops::TiledProduct::serves(x, w, bias) == (is_fast() && (rows >= 512 || w.stride(1) == 1)));
      CHECK(at::equal(ops::product(x, w, bias).to(at::kFloat), want.to(at::kBFloat16).to(at::kFloat)));
      CHECK(
          at::equal(ops::product(x, w).to(at::kFloat), at::sub(want, bias).to(at::kBFloat16).to(at::kFloat)));
    }
  }
}

TEST_CASE("product: slices of rows and of a fused weight are taken as they lie") {
  c10::NoGradGuard no_grad;
  at::manual_seed(2);
  const at::Tensor wide = integers({600, 256}), x = wide.narrow(1, 64, 128);
  const at::Tensor in_out = integers({128, 384}), out_in = integers({384, 128});
  for (const at::Tensor& w : {in_out.narrow(1, 128, 256), out_in.narrow(0, 128, 256).t()}) {
    CHECK(ops::TiledProduct::serves(x, w) == is_fast());
    const at::Tensor want = at::mm(x.to(at::kFloat), w.to(at::kFloat));
    CHECK(at::equal(ops::product(x, w).to(at::kFloat), want.to(at::kBFloat16).to(at::kFloat)));
  }
}

TEST_CASE("product: what tiles cannot take goes to the operators") {
  c10::NoGradGuard no_grad;
  const auto refused = [](const at::Tensor& x, const at::Tensor& w) {
    return !ops::TiledProduct::serves(x, w);
  };
  const at::Tensor x = integers({600, 128}), w = integers({128, 128});
  CHECK(refused(integers({255, 128}), w));  // too few rows to pay for packing
  CHECK(refused(integers({511, 128}), integers({200, 128}).t()));
  CHECK(refused(x.to(at::kDouble), w.to(at::kDouble)));         // another type
  CHECK(refused(integers({600, 127}), integers({127, 128})));   // an odd depth
  CHECK(refused(integers({600, 256}).slice(1, 0, 256, 2), w));  // rows that are not dense
  CHECK(refused(x, integers({128, 256}).slice(1, 0, 256, 2)));  // nor is the weight
  CHECK(refused(
      x, integers({128 * 129 + 1}).narrow(0, 1, 128 * 128).view({128, 128}).t()));  // pairs not aligned
  {
    const c10::AutoGradMode grad(true);
    CHECK(refused(x, w));  // a graph is wanted
  }
  support::for_each_isa([&] {
    if (simd::chosen_isa() < simd::Isa::kAvx512Bf16) CHECK(refused(x, w));
  });
}

TEST_CASE("product: rounds once, to nearest even, and keeps what is not a number") {
  c10::NoGradGuard no_grad;
  at::manual_seed(3);
  const at::Tensor x = at::randn({700, 256}).to(at::kBFloat16), w = at::randn({256, 192}).to(at::kBFloat16),
                   bias = at::randn({192}).to(at::kBFloat16);
  const at::Tensor exact = at::addmm(bias.to(at::kDouble), x.to(at::kDouble), w.to(at::kDouble));
  const at::Tensor y = ops::product(x, w, bias).to(at::kDouble);
  // half a unit in the last of 8 places, and what float32 loses in 256 sums
  const at::Tensor room = at::add(at::mul(exact.abs(), 0x1p-8), 1e-4);
  CHECK(at::sub(y, exact).abs().le(room).all().item<bool>());

  x[600].fill_(std::numeric_limits<float>::quiet_NaN());
  x[601].fill_(std::numeric_limits<float>::infinity());
  const at::Tensor z = ops::product(x, w.abs(), bias);
  CHECK(z[600].isnan().all().item<bool>());
  CHECK(z[601].eq(std::numeric_limits<float>::infinity()).all().item<bool>());
  CHECK(!z.narrow(0, 0, 600).isnan().any().item<bool>());
  CHECK(!z.narrow(0, 602, 98).isnan().any().item<bool>());
}

TEST_CASE("product: neither threads nor the rows beside it change a row's bits") {
  c10::NoGradGuard no_grad;
  at::manual_seed(4);
  const at::Tensor x = at::randn({1100, 320}).to(at::kBFloat16), w = at::randn({320, 448}).to(at::kBFloat16);
  const auto threads = at::get_num_threads();
  at::set_num_threads(1);
  const at::Tensor y = ops::product(x, w);
  at::set_num_threads(3);
  CHECK(at::equal(ops::product(x, w), y));
  CHECK(at::equal(ops::product(x.narrow(0, 37, 900), w), y.narrow(0, 37, 900)));
  at::set_num_threads(threads);
}

TEST_CASE("product: few rows times a weight dense along the depth, for every edge") {
  c10::NoGradGuard no_grad;
  at::manual_seed(7);
  struct Case {
    std::int64_t rows, depth, columns;
  };
  for (const auto& [rows, depth, columns] : {Case{8, 64, 64}, Case{16, 66, 81}, Case{43, 130, 595},
                                             Case{64, 2, 127}, Case{117, 768, 65}, Case{511, 34, 200}}) {
    const at::Tensor x = integers({rows, depth}), bias = integers({columns}), w = integers({columns, depth});
    CHECK(ops::TransposedProduct::serves(x, w.t(), bias) == is_fast());
    const at::Tensor want = at::addmm(bias.to(at::kFloat), x.to(at::kFloat), w.to(at::kFloat).t());
    CHECK(at::equal(ops::product(x, w.t(), bias), want.to(at::kBFloat16)));
    CHECK(at::equal(ops::product(x, w.t()), at::sub(want, bias).to(at::kBFloat16)));
    // Rows of wider ones, and a part of a fused weight, from the middle.
    const at::Tensor wide = integers({rows + 2, depth + 6}),
                     part = wide.narrow(0, 1, rows).narrow(1, 4, depth),
                     fused = integers({columns + 5, depth + 3}),
                     slice = fused.narrow(0, 2, columns).narrow(1, 1, depth).t();
    CHECK(ops::TransposedProduct::serves(part, slice) == is_fast());
    CHECK(at::equal(ops::product(part, slice),
                    at::mm(part.to(at::kFloat), slice.to(at::kFloat)).to(at::kBFloat16)));
  }
}

TEST_CASE("product: few rows go to the operators where their cells cannot be taken") {
  c10::NoGradGuard no_grad;
  const auto refused = [](const at::Tensor& x, const at::Tensor& w) {
    return !ops::TransposedProduct::serves(x, w);
  };
  const at::Tensor x = integers({20, 128}), w = integers({96, 128}).t();
  CHECK(refused(integers({7, 128}), w));                         // too few to gain
  CHECK(refused(integers({512, 128}), w));                       // enough to pay for packing the weight
  CHECK(refused(x, integers({128, 96})));                        // dense along the columns
  CHECK(refused(integers({20, 127}), integers({96, 127}).t()));  // an odd depth
  CHECK(refused(integers({20, 129}).narrow(1, 0, 128), w));      // rows at odd distances
  CHECK(refused(integers({20, 130}).narrow(1, 1, 128), w));      // pairs not aligned
  CHECK(refused(integers({20, 256}).slice(1, 0, 256, 2), w));    // rows that are not dense
  CHECK(refused(x.to(at::kDouble), w.to(at::kDouble)));          // another type
  CHECK(refused(x, integers({128, 63}).t().contiguous().t()));   // too few columns for a tile
  const at::Tensor odd = integers({20, 129}).narrow(1, 0, 128);
  CHECK(at::equal(ops::product(odd, w), at::mm(odd.to(at::kFloat), w.to(at::kFloat)).to(at::kBFloat16)));
  {
    const c10::AutoGradMode grad(true);
    CHECK(refused(x, w));  // a graph is wanted
  }
  support::for_each_isa([&] {
    if (simd::chosen_isa() < simd::Isa::kAvx512Bf16) CHECK(refused(x, w));
    CHECK(at::equal(ops::product(x, w), at::mm(x.to(at::kFloat), w.to(at::kFloat)).to(at::kBFloat16)));
  });
}

TEST_CASE("product: few rows times a weight dense along its columns, for every edge") {
  c10::NoGradGuard no_grad;
  at::manual_seed(9);
  struct Case {
    std::int64_t rows, depth, columns;
  };
  for (const auto& [rows, depth, columns] :
       {Case{1, 64, 64}, Case{2, 1, 65}, Case{9, 257, 95}, Case{12, 512, 128}, Case{43, 1027, 97},
        Case{117, 66, 640}, Case{255, 31, 200}}) {
    // Rows of wider ones, and a part of a fused weight, from the middle: nothing is aligned.
    const at::Tensor x = integers({rows + 1, depth + 5}).narrow(0, 1, rows).narrow(1, 3, depth),
                     w = integers({depth, columns + 7}).narrow(1, 1, columns), bias = integers({columns});
    CHECK(ops::DirectProduct::serves(x, w, bias) == is_fast());
    const at::Tensor want = at::addmm(bias.to(at::kFloat), x.to(at::kFloat), w.to(at::kFloat));
    CHECK(at::equal(ops::product(x, w, bias), want.to(at::kBFloat16)));
    CHECK(at::equal(ops::product(x, w), at::sub(want, bias).to(at::kBFloat16)));
  }
  const auto refused = [](const at::Tensor& a, const at::Tensor& b) {
    return !ops::DirectProduct::serves(a, b);
  };
  const at::Tensor x = integers({20, 128}), w = integers({128, 96});
  CHECK(refused(integers({256, 128}), w));                     // oneDNN is as fast
  CHECK(refused(integers({0, 128}), w));                       // nothing to do
  CHECK(refused(x, integers({96, 128}).t()));                  // dense along the depth
  CHECK(refused(x, integers({128, 63})));                      // few columns
  CHECK(refused(integers({20, 256}).slice(1, 0, 256, 2), w));  // rows that are not dense
  support::for_each_isa([&] {
    if (simd::chosen_isa() < simd::Isa::kAvx512Bf16) CHECK(refused(x, w));
    CHECK(at::equal(ops::product(x, w), at::mm(x.to(at::kFloat), w.to(at::kFloat)).to(at::kBFloat16)));
  });
}

TEST_CASE("product: few rows have the bits of many, whatever the threads and the rows beside them") {
  if (!is_fast()) return;  // the operators promise no such thing
  c10::NoGradGuard no_grad;
  at::manual_seed(8);
  const at::Tensor x = at::randn({600, 320}).to(at::kBFloat16),
                   out_in = at::randn({1337, 320}).to(at::kBFloat16),
                   bias = at::randn({1337}).to(at::kBFloat16);
  const auto threads = at::get_num_threads();
  for (const at::Tensor& w : {out_in.t(), out_in.t().contiguous()}) {
    at::set_num_threads(1);
    const at::Tensor y = ops::product(x, w, bias);
    for (const int count : {1, 3})
      for (const std::int64_t rows : {9, 43, 130}) {
        at::set_num_threads(count);
        CHECK(at::equal(ops::product(x.narrow(0, 37, rows), w, bias), y.narrow(0, 37, rows)));
      }
    const at::Tensor few = x.narrow(0, 0, 40).clone();
    few[20].fill_(std::numeric_limits<float>::quiet_NaN());
    few[21].fill_(std::numeric_limits<float>::infinity());
    const at::Tensor z = ops::product(few, w.abs(), bias);
    CHECK(z[20].isnan().all().item<bool>());
    CHECK(z[21].eq(std::numeric_limits<float>::infinity()).all().item<bool>());
    CHECK(at::equal(z.isnan().sum(), at::full({}, 1337, at::kLong)));
  }
  at::set_num_threads(threads);
}

TEST_CASE("product: a weight's gradient in tiles is added in float32, for every shape and edge") {
  c10::NoGradGuard no_grad;
  at::manual_seed(5);
  struct Case {
    std::int64_t depth, rows, columns;
  };
  for (const auto& [depth, rows, columns] :
       {Case{24, 64, 200}, Case{43, 300, 64}, Case{512, 64, 64}, Case{1055, 200, 66}, Case{2049, 65, 300},
        Case{600, 320, 127}, Case{1024, 128, 256}}) {
    const at::Tensor a = integers({depth, rows}), b = integers({depth, columns});
    const at::Tensor wide = at::full({rows, columns + 10}, 0.5), to = wide.narrow(1, 3, columns);
    CHECK(ops::TiledGradient::serves(to, a, b) == is_fast());
    ops::add_product(to, a.t(), b);
    const at::Tensor want = at::add(at::mm(a.to(at::kFloat).t(), b.to(at::kFloat)), 0.5);
    CHECK(at::equal(to, want));
    CHECK(wide.narrow(1, 0, 3).eq(0.5).all().item<bool>());
    CHECK(wide.narrow(1, columns + 3, 7).eq(0.5).all().item<bool>());
  }
  const at::Tensor a = integers({600, 64}), b = integers({600, 64});
  CHECK(!ops::TiledGradient::serves(at::zeros({64, 64}, at::kBFloat16), a, b));
  CHECK(!ops::TiledGradient::serves(at::zeros({64, 64}), integers({23, 64}), integers({23, 64})));
  CHECK(!ops::TiledGradient::serves(at::zeros({64, 64}), integers({64, 600}).t(), b));
  CHECK(!ops::TiledGradient::serves(at::zeros({64, 64}).t(), a, b));
}

TEST_CASE("product: a weight's gradient does not depend on threads") {
  c10::NoGradGuard no_grad;
  at::manual_seed(6);
  const at::Tensor a = at::randn({700, 200}).to(at::kBFloat16), b = at::randn({700, 300}).to(at::kBFloat16);
  const auto threads = at::get_num_threads();
  const auto gradient = [&](int count) {
    at::set_num_threads(count);
    const at::Tensor to = at::zeros({200, 300});
    ops::add_product(to, a.t(), b);
    return to;
  };
  const at::Tensor one = gradient(1);
  CHECK(at::equal(gradient(3), one));
  at::set_num_threads(threads);
  const at::Tensor exact = at::mm(a.to(at::kDouble).t(), b.to(at::kDouble));
  CHECK(at::sub(one.to(at::kDouble), exact).abs().max().item<double>() < 1e-3);
}

}  // namespace product_test
