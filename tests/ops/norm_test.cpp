#include "offsite/ops/norm.hpp"

#include <ATen/Parallel.h>
#include <ATen/ops/zeros.h>

#include <limits>
#include <type_traits>

#include "offsite/ops/accumulate.hpp"
#include "offsite/ops/rms_norm.hpp"
#include "support/tensors.hpp"
#include "support/test.hpp"

namespace norm_test {

using namespace offsite;
using support::random;
using support::relative_error;

namespace {

struct Result {
  at::Tensor y, dx, dw, db;
};

at::Tensor to(const at::Tensor& t, at::ScalarType type) { return t.defined() ? t.to(type) : t; }

/// Both passes; the gradients of parameters are added to a half.
Result ours(LayerNorm norm, const at::Tensor& x, const at::Tensor& d) {
  for (auto* p : {&norm.weight, &norm.bias})
    if (p->defined()) {
      *p = p->clone();
      p->mutable_grad() = at::zeros({x.size(1)}, at::kFloat).fill_(0.5);
    }
  LayerNorm::Saved saved;
  Result result{norm.forward(x, saved, true), norm.backward(d, saved), {}, {}};
  if (norm.weight.defined()) result.dw = norm.weight.grad();
  if (norm.bias.defined()) result.db = norm.bias.grad();
  return result;
}

/// LibTorch's operators, in a type.
Result wanted(const LayerNorm& norm, const at::Tensor& x, const at::Tensor& d, at::ScalarType type) {
  const at::Tensor w = to(norm.weight, type), b = to(norm.bias, type), wide = x.to(type);
  const auto [y, mean, rstd] = at::native_layer_norm(wide, x.sizes().slice(1), w, b, norm.eps);
  auto [dx, dw, db] = at::native_layer_norm_backward(d.to(type), wide, x.sizes().slice(1), mean, rstd, w, b,
                                                     {true, w.defined(), b.defined()});
  return {y, dx, dw, db};
}

}  // namespace

TEST_CASE(
    "LayerNorm: as near to float64 as LibTorch's operators, for odd widths and all types of parameters") {
  support::for_each_isa([] {
    for (const auto type : {at::kFloat, at::kBFloat16})
      for (const std::int64_t width : {1, 15, 17, 100, 768, 1023})
        for (const auto of_parameters : {at::kFloat, at::kBFloat16, at::ScalarType::Undefined}) {
          INFO("width ", width, " parameters ", static_cast<int>(of_parameters));
          LayerNorm norm{{}, {}, 1e-3};
          if (of_parameters != at::ScalarType::Undefined)
            norm.weight = random({width}, 1).to(of_parameters),
            norm.bias = random({width}, 2).to(of_parameters);
          const std::int64_t rows = width < 200 ? 70 : 9;  // more than are summed at once
          const at::Tensor x = random({rows, width + 3}, 3).add(2).to(type).narrow(1, 2, width),
                           d = random({width, rows}, 4).to(type).t();
          const Result got = ours(norm, x, d), exact = wanted(norm, x, d, at::kDouble),
                       known = wanted(norm, x, d, type);
          const auto near = [&](const at::Tensor& a, const at::Tensor& b, const at::Tensor& c) {
            CHECK((a.scalar_type() == type));
            return relative_error(a, c) <= 1.05 * relative_error(b, c) + 1e-7;
          };
          CHECK(near(got.y, known.y, exact.y));
          if (width > 1)
            CHECK(near(got.dx, known.dx, exact.dx));
          else  // nothing but roundings of g, times rstd, which is 32 here
            CHECK(support::magnitude(got.dx) <= 1e-5);
          if (of_parameters == at::ScalarType::Undefined) continue;
          CHECK(relative_error(got.dw, exact.dw.add(0.5)) < 2e-6);
          CHECK(relative_error(got.db, exact.db.add(0.5)) < 2e-6);
        }
  });
}

TEST_CASE("LayerNorm and RmsNorm: what is added on the way is added as before them and after them") {
  const auto check = [](const auto& norm, at::ScalarType type, std::int64_t width) {
    INFO("type ", static_cast<int>(type), " width ", width);
    const at::Tensor x = random({70, width}, 1).to(type), more = random({70, width}, 2).to(type),
                     d = random({70, width}, 3).to(type), sum = x.add(more);
    typename std::remove_cvref_t<decltype(norm)>::Saved saved, wanted;
    // Strided numbers take the way of two passes.
    for (const at::Tensor& added : {more, random({70, 2 * width}, 2).to(type).narrow(1, 0, width)}) {
      const at::Tensor to = x.clone(), result = x.add(added);
      CHECK(at::equal(norm.forward(to, saved, true, added), norm.forward(result, wanted, true)));
      CHECK(at::equal(to, result));
      CHECK(at::equal(saved.x, result));
      CHECK(at::equal(saved.rstd, wanted.rstd));
    }
    (void)norm.forward(sum, saved, true);
    const at::Tensor dx = norm.backward(d, saved), both = norm.backward(d, saved, true, more);
    const double rounding = type == at::kBFloat16 ? 4e-3 : 2e-7;  // one rounding instead of two
    CHECK(relative_error(both, dx.to(at::kDouble).add(more)) < rounding);
    CHECK(relative_error(norm.backward(d, saved, true, more.t().contiguous().t()), both) < rounding);
    CHECK((both.scalar_type() == type));
  };
  support::for_each_isa([&] {
    for (const auto type : {at::kFloat, at::kBFloat16})
      for (const std::int64_t width : {5, 64, 100}) {
        check(LayerNorm{random({width}, 4), random({width}, 5)}, type, width);
        check(RmsNorm{random({width}, 4)}, type, width);
      }
  });
  check(LayerNorm{random({8}, 4).to(at::kDouble), random({8}, 5).to(at::kDouble)}, at::kDouble, 8);
}

TEST_CASE("accumulate: equals ATen's sum in every type, for all lengths and strides") {
  support::for_each_isa([] {
    for (const auto to_type : {at::kFloat, at::kBFloat16, at::kDouble})
      for (const auto type : {at::kFloat, at::kBFloat16, at::kDouble})
        for (const std::int64_t width : {1, 16, 37}) {
          INFO("types ", static_cast<int>(to_type), " ", static_cast<int>(type), " width ", width);
          const at::Tensor from = random({5, width}, 1).to(type), flat = random({5, width}, 2).to(to_type),
                           wide = random({5, width + 3}, 3).to(to_type);
          for (const at::Tensor& to : {flat, wide.narrow(1, 1, width)}) {
            const at::Tensor wanted = to.clone().add_(from);
            ops::accumulate(to, from);
            CHECK(at::equal(to, wanted));
          }
          CHECK(at::equal(wide.narrow(1, width + 1, 2),
                          random({5, width + 3}, 3).to(to_type).narrow(1, width + 1, 2)));
        }
  });
}

TEST_CASE("accumulate_rows: sums each column in the order of rows, however many there are") {
  support::for_each_isa([] {
    for (const auto type : {at::kFloat, at::kBFloat16})
      for (const std::int64_t rows : {0, 7, 8, 21})
        for (const std::int64_t width : {5, 16, 71}) {
          INFO("type ", static_cast<int>(type), " rows ", rows, " width ", width);
          const at::Tensor from = random({rows, width + 2}, 1).to(type).narrow(1, 1, width),
                           to = random({width}, 2), sum = at::zeros({width}, at::kFloat);
          for (std::int64_t i = 0; i < rows; ++i) sum.add_(from[i]);
          const at::Tensor wanted = to.add(sum);
          ops::accumulate_rows(to, from);
          CHECK(at::equal(to, wanted));
        }
  });
}

TEST_CASE("LayerNorm: rows with NaN or infinity spoil no others; there may be none") {
  support::for_each_isa([] {
    for (const auto type : {at::kFloat, at::kBFloat16}) {
      const LayerNorm norm{random({37}, 1), random({37}, 2)};
      const at::Tensor x = random({5, 37}, 3).to(type), d = random({5, 37}, 4).to(type);
      x[1][36] = std::numeric_limits<double>::quiet_NaN();
      x[3][0] = std::numeric_limits<double>::infinity();
      const Result got = ours(norm, x, d), exact = wanted(norm, x, d, at::kDouble);
      for (const std::int64_t row : {0, 1, 2, 3, 4}) {
        INFO("row ", row);
        const bool spoilt = row % 2 == 1;
        for (const auto& [a, b] : {std::pair(got.y, exact.y), std::pair(got.dx, exact.dx)})
          if (spoilt)
            CHECK(a[row].isnan().all().item<bool>());
          else
            CHECK(relative_error(a[row], b[row]) < support::tolerance(type));
      }
      CHECK(got.dw.isnan().all().item<bool>());
      CHECK(relative_error(got.db, exact.db.add(0.5)) < 2e-6);

      const Result none = ours(norm, x.narrow(0, 0, 0), d.narrow(0, 0, 0));
      CHECK(none.y.sizes() == at::IntArrayRef{0, 37});
      CHECK(none.dx.sizes() == at::IntArrayRef{0, 37});
      CHECK(none.dw.eq(0.5).all().item<bool>());
    }
  });
}

TEST_CASE("LayerNorm: the number of threads changes no bits; a trained bias alone; other types and widths") {
  const LayerNorm norm{random({200}, 1), random({200}, 2)};
  const at::Tensor x = random({500, 200}, 3), d = random({500, 200}, 4);
  const auto run = [&](int threads) {
    const int before = at::get_num_threads();
    at::set_num_threads(threads);
    const Result r = ours(norm, x, d);
    at::set_num_threads(before);
    return std::vector<at::Tensor>{r.y, r.dx, r.dw, r.db};
  };
  const auto one = run(1), three = run(3);
  for (std::size_t i = 0; i < one.size(); ++i) CHECK(at::equal(one[i], three[i]));

  const LayerNorm biased{norm.weight.clone(), norm.bias.clone()};
  biased.bias.mutable_grad() = at::zeros({200}, at::kFloat).fill_(0.5);
  LayerNorm::Saved saved;
  (void)biased.forward(x, saved, true);
  CHECK_FALSE(biased.backward(d, saved, false).defined());
  CHECK(at::equal(biased.bias.grad(), one[3]));
  CHECK(saved.mean.numel() == 500);
  CHECK((saved.rstd.scalar_type() == at::kFloat));

  CHECK(support::message_of<ArgumentError>([&] { (void)norm.forward(x.narrow(1, 0, 7), saved, true); }) ==
        "a norm of width 200 was given rows of width 7");
  const LayerNorm wide{norm.weight.to(at::kDouble), norm.bias.to(at::kDouble)};
  const at::Tensor y = wide.forward(x.to(at::kDouble), saved, true);  // by LibTorch's operators
  CHECK((y.scalar_type() == at::kDouble));
  CHECK(relative_error(one[0], y) < 1e-6);
  CHECK(relative_error(one[1], wide.backward(d.to(at::kDouble), saved)) < 1e-6);
}

}  // namespace norm_test
