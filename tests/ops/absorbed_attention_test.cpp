#include <ATen/ops/arange.h>
#include <ATen/ops/zeros.h>

#include <numeric>
#include <vector>

#include "offsite/ops/self_attention.hpp"
#include "support/tensors.hpp"
#include "support/test.hpp"

namespace absorbed_attention_test {

using namespace offsite;
using support::random;
using support::relative_error;

namespace {

constexpr std::int64_t kHeads = 3, kDepth = 40, kWidth = kHeads * kDepth, kIn = kWidth;

Linear layer(std::int64_t out, WeightLayout layout, std::uint64_t seed, at::ScalarType type) {
  const at::Tensor w = random(
      layout == WeightLayout::kInOut ? at::IntArrayRef{kIn, out} : at::IntArrayRef{out, kIn}, seed, 0.1);
  return {w.to(type), random({out}, seed + 1).to(type), layout};
}

template <class Projection>
SelfAttention<Projection> attention(WeightLayout layout, at::ScalarType type);

template <>
SelfAttention<FusedProjection> attention(WeightLayout layout, at::ScalarType type) {
  return {
      {layer(3 * kWidth, layout, 1, type)}, layer(kWidth, layout, 3, type), {.heads = kHeads, .scale = 0.15}};
}

template <>
SelfAttention<SeparateProjections> attention(WeightLayout layout, at::ScalarType type) {
  return {{layer(kWidth, layout, 5, type), layer(kWidth, layout, 7, type), layer(kWidth, layout, 9, type)},
          layer(kWidth, layout, 3, type),
          {.heads = kHeads, .scale = 0.15}};
}

template <class Attention, class F>
void for_each_tensor(Attention& a, F&& f) {
  const auto both = [&](Linear& l) { f(l.weight), f(l.bias); };
  if constexpr (requires { a.projection.all; })
    both(a.projection.all);
  else
    both(a.projection.q), both(a.projection.k), both(a.projection.v);
  both(a.out);
}

template <class Projection>
void check(WeightLayout layout, at::ScalarType type, const Sequences& s, const at::Tensor& rows,
           std::int64_t window, bool trains) {
  const at::Tensor n = random({s.rows(), kIn}, 20).to(type), d = random({rows.numel(), kWidth}, 21).to(type);

  auto reference = attention<Projection>(layout, type);
  reference.options.window = window;
  for_each_tensor(reference, [](at::Tensor& t) { t = t.to(at::kFloat).clone().set_requires_grad(true); });
  const at::Tensor leaf = n.to(at::kFloat).clone().set_requires_grad(true);
  const at::Tensor y = reference.forward(leaf, s).index_select(0, rows);
  y.backward(d.to(at::kFloat));

  c10::NoGradGuard no_grad;
  auto trained = attention<Projection>(layout, type);
  trained.options.window = window;
  for_each_tensor(trained, [&](at::Tensor& t) {
    if (trains) t.mutable_grad() = at::zeros(t.sizes(), at::kFloat);
  });
  typename SelfAttention<Projection>::Saved saved;
  const double limit = type == at::kFloat ? 4e-6 : 2e-2;
  CHECK(relative_error(trained.forward(n, s, rows, 0, 0, saved, true), y.detach()) < limit);
  CHECK(saved.absorbed.asked.defined());
  CHECK(relative_error(trained.backward(d, s, saved, true), leaf.grad()) < limit);
  CHECK_FALSE(trained.backward(d, s, saved, false).defined());
  if (!trains) return;
  std::vector<at::Tensor> expected;
  for_each_tensor(reference, [&](at::Tensor& t) { expected.push_back(t.grad()); });
  std::size_t i = 0;
  for_each_tensor(trained, [&](at::Tensor& t) {
    const at::Tensor once = t.grad().div(2);  // it was added twice
    // The gradient of a bias of keys is rounding alone: it is compared with the norm of what is beside it.
    if (support::magnitude(expected[i]) > 1e-3)
      CHECK(relative_error(once, expected[i]) < limit);
    else
      CHECK(support::magnitude(once) == 0);
    ++i;
  });
}

}  // namespace

TEST_CASE(
    "AbsorbedAttention: what few queries see and its gradients equal autograd's, without keys or values") {
  const auto s = Sequences::of(std::vector<std::int64_t>{40, 1, 77, 130});
  const at::Tensor rows = support::longs({38, 39, 116, 117, 150, 246});  // none of the sequence of one row
  support::for_each_isa([&] {
    for (const auto type : {at::kFloat, at::kBFloat16})
      for (const auto layout : {WeightLayout::kInOut, WeightLayout::kOutIn})
        for (const std::int64_t window : {0, 9}) {
          check<FusedProjection>(layout, type, s, rows, window, window == 0);
          check<SeparateProjections>(layout, type, s, rows, window, true);
        }
  });
}

TEST_CASE("AbsorbedAttention: continuations of a shared prefix see it") {
  c10::NoGradGuard no_grad;
  const auto s = Sequences::of(std::vector<std::int64_t>{120, 5, 30}, {-1, 0, 0});
  const at::Tensor rows = support::longs({124, 154});
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const auto model = attention<SeparateProjections>(WeightLayout::kOutIn, type);
    const at::Tensor n = random({s.rows(), kIn}, 20).to(type);
    SelfAttention<SeparateProjections>::Saved few, all;
    const at::Tensor y = model.forward(n, s, rows, 0, 0, few, true);
    CHECK(few.absorbed.asked.defined());
    CHECK(relative_error(y, model.forward(n, s, {}, 0, 0, all, true).index_select(0, rows)) <
          2 * support::tolerance(type));
    CHECK_FALSE(all.absorbed.asked.defined());
  }
}

TEST_CASE("AbsorbedAttention: serves few queries to plain layers that tell neither heads nor places apart") {
  const auto s = Sequences::of(std::vector<std::int64_t>{100, 60});
  const auto model = attention<SeparateProjections>(WeightLayout::kOutIn, at::kFloat);
  const at::Tensor x = random({s.rows(), kIn}, 1), few = support::longs({99, 159});
  const auto served = [&](const at::Tensor& rows, auto&& change) {
    auto options = model.options;
    Linear k = model.projection.k, v = model.projection.v;
    change(options, k, v);
    return AbsorbedAttention::serves(x, k, v, ops::AttentionPlan::of(s, rows), options);
  };
  const auto nothing = [](auto&, auto&, auto&) {};
  CHECK(served(few, nothing));
  CHECK(served(few, [](auto& o, auto&, auto&) { o.window = 5; }));
  CHECK_FALSE(served({}, nothing));
  CHECK_FALSE(served(at::arange(90, 100), nothing));
  CHECK_FALSE(served(few, [](auto& o, auto&, auto&) { o.dropout = 0.1; }));
  CHECK_FALSE(served(few, [](auto& o, auto&, auto&) { o.alibi_slopes = {1, 2, 3}; }));
  CHECK_FALSE(served(few, [](auto& o, auto&, auto&) { o.kv_heads = 1; }));
  const LowRank change{.a = random({2, kIn}, 2), .b = random({kWidth, 2}, 3), .magnitude = {}};
  CHECK_FALSE(served(few, [&](auto&, auto& k, auto&) { k.low_rank = change; }));
  CHECK_FALSE(served(few, [&](auto&, auto&, auto& v) { v.low_rank = change; }));

  // Rows of a long sequence that fit into no cache are not looked at as they are.
  const auto long_one = Sequences::of(std::vector<std::int64_t>{9000});
  CHECK_FALSE(AbsorbedAttention::serves(at::zeros({9000, kIn}), model.projection.k, model.projection.v,
                                        ops::AttentionPlan::of(long_one, support::longs({8999})),
                                        model.options));
}

TEST_CASE("AbsorbedAttention: rotary positions and norms of heads take keys as they are") {
  c10::NoGradGuard no_grad;
  const auto s = Sequences::of(std::vector<std::int64_t>{100});
  const at::Tensor x = random({100, kIn}, 1), rows = support::longs({99});
  const auto absorbs = [&](auto&& change) {
    auto model = attention<SeparateProjections>(WeightLayout::kOutIn, at::kFloat);
    change(model);
    typename SelfAttention<SeparateProjections>::Saved saved;
    (void)model.forward(x, s, rows, 0, 0, saved, true);
    return saved.absorbed.asked.defined();
  };
  CHECK(absorbs([](auto&) {}));
  CHECK_FALSE(absorbs([](auto& m) { m.rope = Rope(RopeOptions{.dims = kDepth}); }));
  CHECK_FALSE(absorbs([](auto& m) { m.norms.k = RmsNorm{random({kDepth}, 1)}; }));
}

}  // namespace absorbed_attention_test
