#include "offsite/ops/gated_mlp.hpp"

#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <array>
#include <vector>

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
  CHECK(at::equal(mlp.forward(x, unused, false), mlp.forward(x, unused, false)));
  CHECK(relative_error(mlp.forward(x, unused, false), y.detach()) < 2e-6);
  CHECK(relative_error(mlp.backward(d, saved), leaf.grad()) < 2e-6);
  for (std::size_t i = 0; i < expected.size(); ++i)
    CHECK(relative_error(parameters[i]->grad(), expected[i]) < 2e-6);
}

}  // namespace gated_mlp_test
