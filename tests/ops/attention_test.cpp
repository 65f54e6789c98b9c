#include <ATen/Parallel.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <vector>

#include "offsite/ops/attention.hpp"
#include "support/tensors.hpp"
#include "support/test.hpp"

using namespace offsite;
using support::random;
using support::relative_error;

namespace {

struct Gradients {
  at::Tensor out, dq, dk, dv;
};

Gradients by_kernel(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& d,
                    const ops::AttentionPlan& plan, const ops::AttentionOptions& options) {
  const auto C = q.size(1);
  const auto result = ops::attention(q, k, v, plan, options);
  const at::Tensor dq = at::zeros_like(q), dkv = at::zeros({k.size(0), 2 * C + 3}, k.options());
  Gradients g{result.out, dq, dkv.narrow(1, 0, C), dkv.narrow(1, C + 3, C)};
  ops::attention_backward(d, q, k, v, result.lse, g.dq, g.dk, g.dv, plan, options);
  return g;
}

Gradients by_autograd(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& d,
                      const ops::AttentionPlan& plan, const ops::AttentionOptions& options) {
  const auto leaf = [](const at::Tensor& t) { return t.to(at::kFloat).clone().set_requires_grad(true); };
  const at::Tensor a = leaf(q), b = leaf(k), c = leaf(v),
                   y = ops::attention_reference(a, b, c, plan, options);
  y.backward(d.to(at::kFloat));
  return {y.detach(), a.grad(), b.grad(), c.grad()};
}

}  // namespace

TEST_CASE(
    "attention: forward and backward equal autograd for odd widths, chosen rows, dropout and both types") {
  const std::vector<std::int64_t> lengths{5, 70, 1, 33};
  const auto s = Sequences::of(lengths);
  const at::Tensor rows = support::longs({4, 5, 37, 60, 74, 76, 108});  // none of the sequence of length 1
  support::for_each_isa([&] {
    for (const auto type : {at::kFloat, at::kBFloat16})
      for (const std::int64_t depth : {1, 7, 11, 16, 64, 80})
        for (const bool some : {false, true})
          for (const double rate : {0.0, 0.4}) {
            INFO("depth ", depth, " some ", some, " rate ", rate);
            const std::int64_t heads = 3, width = heads * depth;
            const ops::AttentionOptions options{.heads = heads, .scale = 0.3, .dropout = rate, .key = 9};
            const auto plan = some ? ops::AttentionPlan::of(s, rows) : ops::AttentionPlan::of(s);
            const at::Tensor qkv = random({s.rows(), 3 * width}, 1).to(type);
            const auto part = [&](std::int64_t i) { return qkv.narrow(1, i * width, width); };
            const at::Tensor q = some ? part(0).index_select(0, rows) : part(0);
            const at::Tensor d = random(q.sizes(), 2).to(type);
            const auto ours = by_kernel(q, part(1), part(2), d, plan, options);
            const auto expected = by_autograd(q, part(1), part(2), d, plan, options);
            const double limit = support::tolerance(type);
            CHECK(relative_error(ours.out, expected.out) < limit);
            CHECK(relative_error(ours.dv, expected.dv) < limit);
            if (depth > 1 || type == at::kFloat) {
              CHECK(relative_error(ours.dq, expected.dq) < limit);
              CHECK(relative_error(ours.dk, expected.dk) < limit);
            }
          }
  });
}

TEST_CASE("attention: bits do not depend on the number of threads, nor masks on the packing") {
  const std::vector<std::int64_t> lengths{20, 41, 3}, one{41};
  auto packed = Sequences::of(lengths), alone = Sequences::of(one);
  packed.samples = {7, 3, 5};
  alone.samples = {3};
  const at::Tensor qkv = random({packed.rows(), 3 * 24}, 1), d = random({packed.rows(), 24}, 2);
  const ops::AttentionOptions options{.heads = 2, .scale = 0.3, .dropout = 0.3, .key = 4};
  const auto run = [&](const Sequences& s, const at::Tensor& t, const at::Tensor& dout) {
    return by_kernel(t.narrow(1, 0, 24), t.narrow(1, 24, 24), t.narrow(1, 48, 24), dout,
                     ops::AttentionPlan::of(s), options);
  };
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const auto single = run(packed, qkv, d);
  at::set_num_threads(3);
  const auto several = run(packed, qkv, d);
  at::set_num_threads(threads);
  const auto lone = run(alone, qkv.narrow(0, 20, 41), d.narrow(0, 20, 41));
  for (const auto part : {&Gradients::out, &Gradients::dq, &Gradients::dk, &Gradients::dv}) {
    CHECK(at::equal(single.*part, several.*part));
    CHECK(at::equal((single.*part).narrow(0, 20, 41), lone.*part));
  }
}

TEST_CASE("attention: a shared prefix equals whole sequences; its backward pass is refused") {
  const std::vector<std::int64_t> lengths{37, 4, 20, 1, 12}, whole{41, 57, 38, 12};
  const auto shared = Sequences::of(lengths, {-1, 0, 0, 0, -1}), separate = Sequences::of(whole);
  const at::Tensor qkv = random({shared.rows(), 3 * 22}, 1);
  const auto piece = [&](std::int64_t begin, std::int64_t n) { return qkv.narrow(0, begin, n); };
  const at::Tensor prefix = piece(0, 37);
  const at::Tensor copies =
      at::cat({prefix, piece(37, 4), prefix, piece(41, 20), prefix, piece(61, 1), piece(62, 12)});
  const ops::AttentionOptions options{.heads = 2, .scale = 0.3};
  support::for_each_isa([&] {
    const auto run = [&](const at::Tensor& t, const Sequences& s) {
      return ops::attention(t.narrow(1, 0, 22), t.narrow(1, 22, 22), t.narrow(1, 44, 22),
                            ops::AttentionPlan::of(s), options);
    };
    const at::Tensor a = run(qkv, shared).out, b = run(copies, separate).out;
    CHECK(relative_error(a.narrow(0, 0, 41), b.narrow(0, 0, 41)) < 2e-6);
    CHECK(relative_error(a.narrow(0, 41, 20), b.narrow(0, 41 + 37, 20)) < 2e-6);
    CHECK(relative_error(a.narrow(0, 61, 1), b.narrow(0, 41 + 57 + 37, 1)) < 2e-6);
    CHECK(relative_error(a.narrow(0, 62, 12), b.narrow(0, 41 + 57 + 38, 12)) < 2e-6);
    const at::Tensor reference =
        ops::attention_reference(qkv.narrow(1, 0, 22), qkv.narrow(1, 22, 22), qkv.narrow(1, 44, 22),
                                 ops::AttentionPlan::of(shared), options);
    CHECK(relative_error(a, reference) < 2e-6);
  });
  const at::Tensor x = qkv.narrow(1, 0, 22).clone(), lse = at::zeros({shared.rows(), 2});
  CHECK_THROWS_AS(ops::attention_backward(x, x, x, x, lse, x, x, x, ops::AttentionPlan::of(shared), options),
                  ArgumentError);
}

TEST_CASE("attention: later tokens and other sequences have no influence; NaN does not disappear") {
  const std::vector<std::int64_t> lengths{40, 20};
  const auto s = Sequences::of(lengths);
  const auto plan = ops::AttentionPlan::of(s);
  const ops::AttentionOptions options{.heads = 2, .scale = 0.3};
  at::Tensor q = random({60, 16}, 1), k = random({60, 16}, 2), v = random({60, 16}, 3);
  const at::Tensor before = ops::attention(q, k, v, plan, options).out;
  k.narrow(0, 20, 20).add_(1);
  v.narrow(0, 20, 20).add_(1);
  const at::Tensor after = ops::attention(q, k, v, plan, options).out;
  CHECK(at::equal(before.narrow(0, 0, 20), after.narrow(0, 0, 20)));
  CHECK(at::equal(before.narrow(0, 40, 20), after.narrow(0, 40, 20)));
  CHECK_FALSE(at::equal(before.narrow(0, 20, 20), after.narrow(0, 20, 20)));
  for (const auto value : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    at::Tensor broken = k.clone();
    broken[3].fill_(value);
    const at::Tensor y = ops::attention(q, broken, v, plan, options).out;
    CHECK(y.narrow(0, 3, 37).isnan().any(1).all().item<bool>());
    CHECK(at::equal(y.narrow(0, 40, 20), after.narrow(0, 40, 20)));
  }
}

TEST_CASE("AttentionPlan: refuses rows that do not ascend or do not exist") {
  const std::vector<std::int64_t> lengths{4, 3};
  const auto s = Sequences::of(lengths);
  for (const auto& rows : {support::longs({2, 1}), support::longs({2, 2}), support::longs({5, 1}),
                           support::longs({3, 7}), support::longs({-1, 2})})
    CHECK_THROWS_AS((void)ops::AttentionPlan::of(s, rows), ArgumentError);
  CHECK(ops::AttentionPlan::of(s, at::zeros({0}, at::kLong)).positions.empty());
}
