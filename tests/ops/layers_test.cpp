#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>

#include <utility>
#include <vector>

#include "offsite/ops/cross_entropy.hpp"
#include "offsite/ops/linear.hpp"
#include "offsite/ops/norm.hpp"
#include "support/tensors.hpp"
#include "support/test.hpp"

namespace layers_test {

using namespace offsite;
using support::random;
using support::relative_error;

TEST_CASE(
    "Linear: forward, backward and slices equal autograd, in both layouts and types, gradients in float32") {
  for (const auto layout : {WeightLayout::kInOut, WeightLayout::kOutIn})
    for (const auto type : {at::kFloat, at::kBFloat16})
      for (const bool some : {false, true}) {
        constexpr std::int64_t kIn = 19, kOut = 42, kRows = 11;
        const bool in_out = layout == WeightLayout::kInOut;
        const at::Tensor w =
            random(in_out ? at::IntArrayRef{kIn, kOut} : at::IntArrayRef{kOut, kIn}, 1).to(type);
        const at::Tensor b = random({kOut}, 2).to(type), x = random({kRows, kIn}, 3).to(type);
        const std::int64_t begin = some ? 14 : 0, count = some ? 14 : kOut;

        Linear reference{w.to(at::kFloat).clone().set_requires_grad(true),
                         b.to(at::kFloat).clone().set_requires_grad(true), layout};
        at::Tensor leaf = x.to(at::kFloat).clone().set_requires_grad(true);
        const at::Tensor y = reference.forward(leaf).narrow(1, begin, count);
        const at::Tensor dy = random({kRows, count}, 4).to(type);
        y.backward(dy.to(at::kFloat));

        Linear trained{w.clone(), b.clone(), layout};
        CHECK(trained.in_features() == kIn);
        CHECK(trained.out_features() == kOut);
        trained.weight.mutable_grad() = at::zeros(w.sizes(), at::kFloat);
        trained.bias.mutable_grad() = at::zeros(b.sizes(), at::kFloat);
        Linear part = trained.slice(begin, count);
        CHECK(part.out_features() == count);
        const double limit = support::tolerance(type);
        for (int time = 1; time <= 2; ++time) {  // gradients add up
          Linear::Saved saved;
          CHECK(relative_error(part.forward(x, saved, true), y.detach()) < limit);
          CHECK(relative_error(part.backward(dy, saved), leaf.grad()) < limit);
          CHECK(relative_error(trained.weight.grad(), reference.weight.grad().mul(time)) < limit);
          CHECK(relative_error(trained.bias.grad(), reference.bias.grad().mul(time)) < limit);
          CHECK_FALSE(part.backward(dy, std::move(saved), false).defined());
          CHECK_FALSE(saved.x.defined());
          trained.weight.grad().sub_(reference.weight.grad());
          trained.bias.grad().sub_(reference.bias.grad());
        }
        Linear frozen{w, {}, layout};
        Linear::Saved nothing;
        (void)frozen.forward(x, nothing, true);
        CHECK_FALSE(nothing.x.defined());
        std::vector<std::string> names;
        trained.visit("mlp.c_fc", [&](std::string_view name, at::Tensor&) { names.emplace_back(name); });
        CHECK(names == std::vector<std::string>{"mlp.c_fc.weight", "mlp.c_fc.bias"});
      }
}

TEST_CASE("LayerNorm: forward and backward equal autograd, frozen or trained, with its own epsilon") {
  for (const auto type : {at::kFloat, at::kBFloat16})
    for (const std::int64_t width : {7, 33, 64})
      for (const double eps : {1e-5, 0.1}) {
        const at::Tensor w = random({width}, 1).to(type), b = random({width}, 2).to(type);
        const at::Tensor x = random({9, width}, 3).to(type), dy = random({9, width}, 4).to(type);
        LayerNorm reference{w.to(at::kFloat).clone().set_requires_grad(true),
                            b.to(at::kFloat).clone().set_requires_grad(true), eps};
        at::Tensor leaf = x.to(at::kFloat).clone().set_requires_grad(true);
        const at::Tensor y = reference.forward(leaf);
        y.backward(dy.to(at::kFloat));
        LayerNorm norm{w, b, eps};
        LayerNorm::Saved saved;
        const double limit = support::tolerance(type);
        CHECK(relative_error(norm.forward(x, saved, true), y.detach()) < limit);
        CHECK(relative_error(norm.backward(dy, saved), leaf.grad()) < limit);
        norm.weight.mutable_grad() = at::zeros({width}, at::kFloat);
        norm.bias.mutable_grad() = at::zeros({width}, at::kFloat);
        CHECK_FALSE(norm.backward(dy, saved, false).defined());
        CHECK(relative_error(norm.weight.grad(), reference.weight.grad()) < limit + 1e-6);
        CHECK(relative_error(norm.bias.grad(), reference.bias.grad()) < limit);
      }
}

TEST_CASE("cross_entropy_: loss, log-probabilities and gradient equal autograd, for any vocabulary") {
  support::for_each_isa([] {
    for (const auto type : {at::kFloat, at::kBFloat16})
      for (const std::int64_t vocabulary : {1, 5, 16, 37, 1003}) {
        const at::Tensor logits = random({6, vocabulary}, 1, 4).to(type);
        at::Tensor targets = support::longs({0, 1, 2, 3, 4, 0}).remainder(vocabulary);
        at::Tensor leaf = logits.to(at::kFloat).clone().set_requires_grad(true);
        const at::Tensor expected = ops::log_probabilities_reference(leaf, targets);
        expected.sum().mul(-0.25).backward();
        const auto forward = ops::log_probabilities(logits, targets, true);
        CHECK(relative_error(forward.values, expected.detach()) < 2e-6);
        CHECK(at::equal(forward.best, logits.argmax(1)));
        CHECK_FALSE(ops::log_probabilities(logits, targets).best.defined());
        at::Tensor d = logits.clone();
        const auto result = ops::cross_entropy_(d, targets, 0.25);
        CHECK(at::equal(result.log_probabilities, forward.values));
        CHECK(result.sum == doctest::Approx(-expected.sum().item<double>()).epsilon(1e-6));
        CHECK(relative_error(d, leaf.grad()) < support::tolerance(type));
      }
  });
}

TEST_CASE(
    "cross_entropy_: a target outside the vocabulary is refused before anything is written; NaN shows") {
  const at::Tensor logits = random({2, 20}, 1), before = logits.clone();
  for (const std::int64_t wrong : {-1, 20}) {
    const auto message = support::message_of<ArgumentError>([&] {
      (void)ops::cross_entropy_(logits, support::longs({3, wrong}), 1);
    });
    CHECK(message == "target " + std::to_string(wrong) + " of row 1 is outside the vocabulary of 20");
    CHECK_THROWS_AS((void)ops::log_probabilities(logits, support::longs({wrong, 3})), ArgumentError);
  }
  CHECK_THROWS_AS((void)ops::cross_entropy_(logits, support::longs({3}), 1), ArgumentError);
  CHECK(at::equal(logits, before));
  for (const std::int64_t place : {0, 7, 19}) {
    at::Tensor broken = logits.clone();
    broken[1][place].fill_(std::numeric_limits<float>::quiet_NaN());
    const auto result = ops::cross_entropy_(broken, support::longs({3, 4}), 1);
    CHECK(std::isnan(result.sum));
    CHECK(std::isfinite(result.log_probabilities[0].item<float>()));
  }
  const auto none = ops::cross_entropy_(at::zeros({0, 20}), at::zeros({0}, at::kLong), 1);
  CHECK(none.sum == 0);
}

}  // namespace layers_test
