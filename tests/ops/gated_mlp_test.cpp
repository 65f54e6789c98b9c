#include "offsite/ops/gated_mlp.hpp"

#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <array>
#include <vector>

#include "offsite/ops/mlp.hpp"
#include "support/tensors.hpp"
#include "support/test.hpp"

namespace gated_mlp_test {

using namespace offsite;
using support::random;
using support::relative_error;

TEST_CASE("gated activation: both passes equal autograd for every activation, odd sizes and both types") {
  using enum Activation;
  support::for_each_isa([&] {
    for (const auto type : {at::kFloat, at::kBFloat16})
      for (const auto f : {kSilu, kGeluTanh, kGelu, kQuickGelu, kRelu, kTanh})
        for (const std::int64_t width : {1, 16, 45}) {
          INFO("activation ", static_cast<int>(f), " width ", width);
          const at::Tensor g = random({7, width}, 1, 3).to(type), u = random({7, width}, 2).to(type),
                           d = random({7, width}, 3).to(type);
          const auto leaf = [](const at::Tensor& t) {
            return t.to(at::kDouble).clone().set_requires_grad(true);
          };
          const at::Tensor a = leaf(g), b = leaf(u), y = ops::activation_reference(a, f).mul(b);
          y.backward(d.to(at::kDouble));
          at::Tensor dg = g.clone(), du = u.clone(), out = g.clone();
          ops::gated_activation_out(out, u, f, out);
          ops::gated_activation_backward_(d, dg, du, f);
          CHECK(relative_error(out, y.detach()) < support::tolerance(type));
          CHECK(relative_error(dg, a.grad()) < support::tolerance(type));
          CHECK(relative_error(du, b.grad()) < support::tolerance(type));
        }
  });
  at::Tensor g = random({2, 3}, 1), u = random({3, 2}, 1);
  CHECK_THROWS_AS(ops::gated_activation_out(g, u, kSilu, g), ArgumentError);
}

TEST_CASE("GatedMlp: both passes equal autograd") {
  const auto linear = [](std::int64_t in, std::int64_t out, std::uint64_t seed) {
    return Linear{random({out, in}, seed, 0.3), random({out}, seed + 1)};
  };
  GatedMlp mlp{linear(10, 23, 1), linear(10, 23, 3), linear(23, 10, 5), Activation::kSilu};
  const at::Tensor x = random({6, 10}, 7), d = random({6, 10}, 8);
  const std::array parameters{&mlp.gate.weight, &mlp.gate.bias,   &mlp.up.weight,
                              &mlp.up.bias,     &mlp.down.weight, &mlp.down.bias};
  for (auto* p : parameters) p->set_requires_grad(true);
  const at::Tensor leaf = x.clone().set_requires_grad(true), y = mlp.forward(leaf);
  y.backward(d);
  std::vector<at::Tensor> expected;
  for (auto* p : parameters) {
    expected.push_back(p->grad());
    *p = p->detach();
    p->mutable_grad() = at::zeros_like(*p);
  }
  GatedMlp::Saved saved, unused;
  CHECK(relative_error(mlp.forward(x, saved, true), y.detach()) < 2e-6);
  CHECK(saved.up.x.is_same(x));
  CHECK_FALSE(saved.down.x.defined());  // made again
  CHECK(at::equal(mlp.forward(x, unused, false), mlp.forward(x, unused, false)));
  CHECK(relative_error(mlp.forward(x, unused, false), y.detach()) < 2e-6);
  CHECK(relative_error(mlp.backward(d, saved), leaf.grad()) < 2e-6);
  for (std::size_t i = 0; i < expected.size(); ++i)
    CHECK(relative_error(parameters[i]->grad(), expected[i]) < 2e-6);
}

TEST_CASE(
    "Mlp: a wide input that can be made again is not kept, neither for the weight nor for low-rank factors") {
  const auto trained = [](at::Tensor t) {
    t.mutable_grad() = at::zeros_like(t);
    return t;
  };
  Mlp mlp{{random({12, 5}, 1, 0.3)}, {random({5, 12}, 2, 0.3)}};
  const at::Tensor x = random({6, 5}, 3), d = random({6, 5}, 4);
  for (const bool low_rank : {false, true}) {
    if (low_rank) {
      mlp.out.low_rank.a = trained(random({2, 12}, 5));
      mlp.out.low_rank.b = trained(random({5, 2}, 6));
    } else {
      mlp.out.weight = trained(mlp.out.weight);
    }
    Mlp::Saved saved;
    (void)mlp.forward(x, saved, true);
    CHECK_FALSE(saved.out.x.defined());
    CHECK_FALSE(saved.out.low_rank.x.defined());
    const at::Tensor g = ops::activation(mlp.in.forward(x), mlp.activation);
    const at::Tensor before = mlp.out.weight.grad().clone();
    (void)mlp.backward(d, saved);
    CHECK(relative_error(mlp.out.weight.grad().sub(before), at::mm(d.t(), g)) < 2e-6);
    if (low_rank)
      CHECK(relative_error(mlp.out.low_rank.a.grad(), at::mm(at::mm(d, mlp.out.low_rank.b).t(), g)) < 2e-6);
  }
}

}  // namespace gated_mlp_test
