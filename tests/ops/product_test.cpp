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
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <limits>
#include <string>

#include "support/tensors.hpp"
#include "support/test.hpp"

namespace product_test {

using namespace offsite;

struct Shape {
  std::int64_t rows, depth, columns;
};

/// Calls `f(type)` for both types that tiles are made of, without a graph.
template <class F>
void for_each_type(F&& f) {
  c10::NoGradGuard no_grad;
  for (const auto type : {at::kBFloat16, at::kFloat}) {
    INFO(std::string(at::toString(type)));
    at::manual_seed(1);
    f(type);
  }
}

/// Small integers: their products and sums are exact in every order, so results must be equal, not close.
at::Tensor integers(at::ScalarType type, at::IntArrayRef shape) { return at::randint(-2, 3, shape).to(type); }

/// x w + bias of such numbers, rounded once.
at::Tensor rounded(const at::Tensor& x, const at::Tensor& w, const at::Tensor& bias = {}) {
  const at::Tensor y = at::mm(x.to(at::kFloat), w.to(at::kFloat));
  return (bias.defined() ? at::add(y, bias) : y).to(x.scalar_type());
}

bool is_fast() {
  c10::NoGradGuard no_grad;
  return ops::TiledProduct::serves(integers(at::kFloat, {256, 64}), integers(at::kFloat, {64, 64}));
}

template <class F>
at::Tensor with_threads(int count, F&& f) {
  const auto before = at::get_num_threads();
  at::set_num_threads(count);
  at::Tensor result = f();
  at::set_num_threads(before);
  return result;
}

TEST_CASE("product: tiles give what the operator gives, for every layout and edge") {
  for_each_type([](at::ScalarType type) {
    // Depths on both sides of what is summed at a time of float32; rows and columns end in whole tiles and in parts.
    for (const auto& [rows, depth, columns] :
         {Shape{512, 64, 64}, Shape{515, 66, 200}, Shape{577, 130, 65}, Shape{1023, 768, 320},
          Shape{600, 2, 127}, Shape{512, 8192, 600}, Shape{256, 66, 200}, Shape{256, 64, 64},
          Shape{320, 1600, 192}, Shape{259, 769, 200}, Shape{577, 131, 65}, Shape{300, 1, 127},
          Shape{271, 768, 128}, Shape{640, 900, 130}, Shape{530, 2048, 96}, Shape{257, 4096, 64}}) {
      const at::Tensor x = integers(type, {rows, depth}), bias = integers(type, {columns}),
                       in_out = integers(type, {depth, columns}), out_in = in_out.t().contiguous();
      for (const at::Tensor& w : {in_out, out_in.t()}) {
        const bool suits = type == at::kFloat || (depth % 2 == 0 && (rows >= 512 || w.stride(1) == 1));
        CHECK(ops::TiledProduct::serves(x, w, bias) == (is_fast() && suits));
        CHECK(at::equal(ops::product(x, w, bias), rounded(x, w, bias)));
        CHECK(at::equal(ops::product(x, w), rounded(x, w)));
      }
    }
  });
}

TEST_CASE("product: slices of rows and of a fused weight are taken as they lie") {
  for_each_type([](at::ScalarType type) {
    const std::int64_t odd = type == at::kFloat;  // bfloat16 must lie in pairs
    const at::Tensor x = integers(type, {600, 256 + odd}).narrow(1, 64 - odd, 128 + odd),
                     in_out = integers(type, {128 + odd, 384}).narrow(1, 128 - odd, 256),
                     out_in =
                         integers(type, {384, 132 - odd}).narrow(0, 128, 256).narrow(1, 2 - odd, 128 + odd);
    for (const at::Tensor& w : {in_out, out_in.t()}) {
      CHECK(ops::TiledProduct::serves(x, w) == is_fast());
      CHECK(at::equal(ops::product(x, w), rounded(x, w)));
    }
  });
}

TEST_CASE("product: what tiles cannot take goes to the operators") {
  const auto refused = [](const at::Tensor& x, const at::Tensor& w, const at::Tensor& bias = {}) {
    return !ops::TiledProduct::serves(x, w, bias);
  };
  for_each_type([&](at::ScalarType type) {
    const auto other = type == at::kFloat ? at::kBFloat16 : at::kFloat;
    const at::Tensor x = integers(type, {600, 128}), w = integers(type, {128, 128});
    CHECK(refused(integers(type, {type == at::kFloat ? 127 : 255, 128}),
                  w));                                                   // too few rows to pay for packing
    CHECK(refused(x, integers(type, {128, 63})));                        // too few columns
    CHECK(refused(x.to(at::kDouble), w.to(at::kDouble)));                // another type
    CHECK(refused(x, w.to(other)));                                      // two types
    CHECK(refused(x, w, integers(other, {128})));                        // nor may the bias have another
    CHECK(refused(integers(type, {600, 0}), integers(type, {0, 128})));  // nothing to sum
    CHECK(refused(integers(type, {600, 256}).slice(1, 0, 256, 2), w));   // rows that are not dense
    CHECK(refused(x, integers(type, {128, 256}).slice(1, 0, 256, 2)));   // nor is the weight
    {
      const c10::AutoGradMode grad(true);
      CHECK(refused(x, w));  // a graph is wanted
    }
    support::for_each_isa([&] {
      if (simd::chosen_isa() < simd::Isa::kAvx512Bf16) CHECK(refused(x, w));
    });
    if (type == at::kFloat) return;
    CHECK(refused(integers(type, {511, 128}), integers(type, {200, 128}).t()));
    CHECK(refused(integers(type, {600, 127}), integers(type, {127, 128})));  // an odd depth
    CHECK(refused(
        x, integers(type, {128 * 129 + 1}).narrow(0, 1, 128 * 128).view({128, 128}).t()));  // not aligned
  });
}

TEST_CASE("product: rounds once, to nearest even, and keeps what is not a number") {
  for_each_type([](at::ScalarType type) {
    const at::Tensor x = at::randn({290, 1000}).to(type), w = at::randn({1000, 192}).to(type),
                     bias = at::randn({192}).to(type);
    const at::Tensor exact = at::addmm(bias.to(at::kDouble), x.to(at::kDouble), w.to(at::kDouble));
    const at::Tensor y = ops::product(x, w, bias).to(at::kDouble);
    // half a unit in the last of bfloat16's 8 places, and what float32 loses in 1000 sums
    const at::Tensor room = at::add(at::mul(exact.abs(), type == at::kFloat ? 0 : 0x1p-8), 3e-4);
    CHECK(at::sub(y, exact).abs().le(room).all().item<bool>());

    x[100].fill_(std::numeric_limits<float>::quiet_NaN());
    x[288].fill_(std::numeric_limits<float>::infinity());
    const at::Tensor z = ops::product(x, w.abs(), bias);
    CHECK(z[100].isnan().all().item<bool>());
    CHECK(z[288].eq(std::numeric_limits<float>::infinity()).all().item<bool>());
    CHECK(!z.narrow(0, 0, 100).isnan().any().item<bool>());
    CHECK(!z.narrow(0, 101, 189).isnan().any().item<bool>());
    CHECK(z[289].isfinite().all().item<bool>());
  });
}

TEST_CASE("product: neither threads nor the rows and columns beside it change a number's bits") {
  for_each_type([](at::ScalarType type) {
    const at::Tensor x = at::randn({1100, 1600}).to(type), w = at::randn({1600, 448}).to(type),
                     bias = at::randn({448}).to(type);
    const at::Tensor y = with_threads(1, [&] { return ops::product(x, w, bias); });
    (void)with_threads(3, [&] {
      CHECK(at::equal(ops::product(x, w, bias), y));
      if (!is_fast()) return y;  // the operators promise no more
      for (const std::int64_t rows : {301, 900})
        CHECK(at::equal(ops::product(x.narrow(0, 37, rows), w, bias), y.narrow(0, 37, rows)));
      CHECK(at::equal(ops::product(x, w.narrow(1, 5, 259), bias.narrow(0, 5, 259)), y.narrow(1, 5, 259)));
      return y;
    });
  });
}

TEST_CASE("product: few rows times a weight dense along the depth, for every edge") {
  for_each_type([](at::ScalarType type) {
    for (const auto& [rows, depth, columns] :
         {Shape{8, 64, 64}, Shape{16, 66, 81}, Shape{43, 130, 595}, Shape{64, 2, 127}, Shape{117, 768, 65},
          Shape{511, 34, 200}, Shape{43, 131, 595}, Shape{64, 1, 127}, Shape{117, 1601, 65},
          Shape{255, 768, 200}}) {
      const at::Tensor x = integers(type, {rows, depth}), bias = integers(type, {columns}),
                       w = integers(type, {columns, depth}).t();
      const bool served = is_fast() && (type == at::kFloat ? rows < 256 : depth % 2 == 0);
      CHECK(ops::TransposedProduct::serves(x, w, bias) == served);
      CHECK(at::equal(ops::product(x, w, bias), rounded(x, w, bias)));
      CHECK(at::equal(ops::product(x, w), rounded(x, w)));
      // Rows of wider ones, and a part of a fused weight, from the middle.
      const at::Tensor part = integers(type, {rows + 2, depth + 6}).narrow(0, 1, rows).narrow(1, 4, depth),
                       fused = integers(type, {columns + 5, depth + 3}),
                       slice = fused.narrow(0, 2, columns).narrow(1, 1, depth).t();
      CHECK(ops::TransposedProduct::serves(part, slice) == served);
      CHECK(at::equal(ops::product(part, slice), rounded(part, slice)));
    }
  });
}

TEST_CASE("product: few rows go to the operators where their cells cannot be taken") {
  const auto refused = [](const at::Tensor& x, const at::Tensor& w) {
    return !ops::TransposedProduct::serves(x, w);
  };
  for_each_type([&](at::ScalarType type) {
    const at::Tensor x = integers(type, {20, 128}), w = integers(type, {96, 128}).t();
    CHECK(refused(integers(type, {7, 128}), w));  // too few to gain
    CHECK(refused(integers(type, {type == at::kFloat ? 256 : 512, 128}),
                  w));                                                 // enough to pay for packing the weight
    CHECK(refused(x, integers(type, {128, 96})));                      // dense along the columns
    CHECK(refused(integers(type, {20, 256}).slice(1, 0, 256, 2), w));  // rows that are not dense
    CHECK(refused(x.to(at::kDouble), w.to(at::kDouble)));              // another type
    CHECK(refused(x, integers(type, {63, 128}).t()));                  // too few columns for a tile
    {
      const c10::AutoGradMode grad(true);
      CHECK(refused(x, w));  // a graph is wanted
    }
    support::for_each_isa([&] {
      if (simd::chosen_isa() < simd::Isa::kAvx512Bf16) CHECK(refused(x, w));
      CHECK(at::equal(ops::product(x, w), rounded(x, w)));
    });
    if (type == at::kFloat) return;
    CHECK(refused(integers(type, {20, 127}), integers(type, {96, 127}).t()));  // an odd depth
    CHECK(refused(integers(type, {20, 130}).narrow(1, 1, 128), w));            // pairs not aligned
    const at::Tensor odd = integers(type, {20, 129}).narrow(1, 0, 128);        // rows at odd distances
    CHECK(refused(odd, w));
    CHECK(at::equal(ops::product(odd, w), rounded(odd, w)));
  });
}

TEST_CASE("product: few rows times a weight dense along its columns, for every edge") {
  const auto refused = [](const at::Tensor& x, const at::Tensor& w) {
    return !ops::DirectProduct::serves(x, w);
  };
  for_each_type([&](at::ScalarType type) {
    const std::int64_t too_many = type == at::kFloat ? 128 : 256;
    for (const auto& [rows, depth, columns] :
         {Shape{1, 64, 64}, Shape{2, 1, 65}, Shape{9, 257, 95}, Shape{12, 512, 128}, Shape{43, 1027, 97},
          Shape{117, 66, 640}, Shape{255, 31, 200}, Shape{12, 257, 95}, Shape{43, 131, 595},
          Shape{64, 1, 127}, Shape{97, 300, 65}, Shape{127, 128, 200}}) {
      // Rows of wider ones, and a part of a fused weight, from the middle: nothing is aligned, and what lies beside
      // them is not a number.
      const auto hidden = [&](std::int64_t height, std::int64_t width) {
        const at::Tensor wide =
                             at::full({height + 3, width + 7}, std::numeric_limits<float>::quiet_NaN(), type),
                         part = wide.narrow(0, 2, height).narrow(1, 3, width);
        return part.copy_(integers(type, part.sizes()));
      };
      const at::Tensor x = hidden(rows, depth), w = hidden(depth, columns), bias = integers(type, {columns});
      CHECK(ops::DirectProduct::serves(x, w, bias) == (is_fast() && rows < too_many));
      CHECK(at::equal(ops::product(x, w, bias), rounded(x, w, bias)));
      CHECK(at::equal(ops::product(x, w), rounded(x, w)));
      CHECK(at::equal(ops::product(x.contiguous(), w.contiguous(), bias), rounded(x, w, bias)));
    }
    const at::Tensor x = integers(type, {20, 128}), w = integers(type, {128, 96});
    CHECK(refused(integers(type, {too_many, 128}), w));                // the operators are as fast
    CHECK(refused(integers(type, {0, 128}), w));                       // nothing to do
    CHECK(refused(x, integers(type, {96, 128}).t()));                  // dense along the depth
    CHECK(refused(x, integers(type, {128, 63})));                      // few columns
    CHECK(refused(integers(type, {20, 256}).slice(1, 0, 256, 2), w));  // rows that are not dense
    support::for_each_isa([&] {
      if (simd::chosen_isa() < simd::Isa::kAvx512Bf16) CHECK(refused(x, w));
      CHECK(at::equal(ops::product(x, w), rounded(x, w)));
    });
  });
}

TEST_CASE("product: few rows have the bits of many, whatever the threads and the rows beside them") {
  if (!is_fast()) return;  // the operators promise no such thing
  for_each_type([](at::ScalarType type) {
    const at::Tensor all = at::randn({600, 1000}).to(type), out_in = at::randn({1337, 1000}).to(type),
                     bias = at::randn({1337}).to(type);
    for (const at::Tensor& w : {out_in.t(), out_in.t().contiguous()}) {
      const at::Tensor y = with_threads(1, [&] { return ops::product(all, w, bias); });
      for (const int count : {1, 3})
        for (const std::int64_t rows : {9, 43, 90, 130, 400}) {
          const at::Tensor few =
              with_threads(count, [&] { return ops::product(all.narrow(0, 37, rows), w, bias); });
          CHECK(at::equal(few, y.narrow(0, 37, rows)));
        }
      const at::Tensor few = all.narrow(0, 0, 40).clone();
      few[20].fill_(std::numeric_limits<float>::quiet_NaN());
      few[21].fill_(std::numeric_limits<float>::infinity());
      const at::Tensor z = ops::product(few, w.abs(), bias);
      CHECK(z[20].isnan().all().item<bool>());
      CHECK(z[21].eq(std::numeric_limits<float>::infinity()).all().item<bool>());
      CHECK(z.isnan().sum().item<std::int64_t>() == 1337);
    }
  });
}

TEST_CASE("product: a weight's gradient in tiles is added in float32, for every shape and edge") {
  for_each_type([](at::ScalarType type) {
    for (const auto& [rows, depth, columns] :
         {Shape{64, 24, 200}, Shape{300, 43, 64}, Shape{64, 512, 64}, Shape{200, 1055, 66},
          Shape{65, 2049, 300}, Shape{320, 600, 127}, Shape{128, 1024, 256}, Shape{144, 100, 161}}) {
      const at::Tensor a = integers(type, {depth, rows}), b = integers(type, {depth, columns});
      const at::Tensor wide = at::full({rows, columns + 10}, 0.5), to = wide.narrow(1, 3, columns);
      CHECK(ops::TiledGradient::serves(to, a, b) == is_fast());
      ops::add_gradient(to, a, b);
      const at::Tensor want = at::add(at::mm(a.to(at::kFloat).t(), b.to(at::kFloat)), 0.5);
      CHECK(at::equal(to, want));
      CHECK(wide.narrow(1, 0, 3).eq(0.5).all().item<bool>());
      CHECK(wide.narrow(1, columns + 3, 7).eq(0.5).all().item<bool>());
    }
    const at::Tensor a = integers(type, {600, 64}), b = integers(type, {600, 64}),
                     few = integers(type, {23, 64});
    CHECK(!ops::TiledGradient::serves(at::zeros({64, 64}, at::kBFloat16), a, b));
    CHECK(!ops::TiledGradient::serves(at::zeros({64, 64}), few, few));
    CHECK(!ops::TiledGradient::serves(at::zeros({64, 64}), integers(type, {64, 600}).t(), b));
    CHECK(!ops::TiledGradient::serves(at::zeros({64, 64}).t(), a, b));
  });
}

TEST_CASE("product: a weight's gradient does not depend on threads") {
  for_each_type([](at::ScalarType type) {
    const at::Tensor a = at::randn({700, 200}).to(type), b = at::randn({700, 300}).to(type);
    const auto gradient = [&] {
      const at::Tensor to = at::zeros({200, 300});
      ops::add_gradient(to, a, b);
      return to;
    };
    const at::Tensor one = with_threads(1, gradient);
    CHECK(at::equal(with_threads(3, gradient), one));
    const at::Tensor exact = at::mm(a.to(at::kDouble).t(), b.to(at::kDouble));
    CHECK(at::sub(one.to(at::kDouble), exact).abs().max().item<double>() < 1e-3);
  });
}

}  // namespace product_test
