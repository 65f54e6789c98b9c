#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "offsite/ops/attention.hpp"
#include "support/tensors.hpp"
#include "support/test.hpp"

namespace attention_test {

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

// Dense and slow, from the definition, in float64: no code in common with the library's reference.
at::Tensor by_definition(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Sequences& s,
                         const at::Tensor& rows, const ops::AttentionOptions& o) {
  const auto heads = o.heads, kv_heads = o.kv_heads, depth = q.size(1) / heads;
  const auto a = q.to(at::kDouble).contiguous(), b = k.to(at::kDouble).contiguous(),
             c = v.to(at::kDouble).contiguous();
  at::Tensor out = at::zeros_like(a);
  const auto* position = s.positions.const_data_ptr<std::int64_t>();
  auto sequence_of = [&](std::int64_t row) {
    std::int64_t n = 0;
    while (s.begin(n + 1) <= row) ++n;
    return n;
  };
  const auto at = [&](const at::Tensor& t, std::int64_t row, std::int64_t head) {
    return static_cast<double*>(t.data_ptr()) + row * t.size(1) + head * depth;
  };
  for (std::int64_t i = 0; i < q.size(0); ++i) {
    const auto row = rows.const_data_ptr<std::int64_t>()[i], own = sequence_of(row);
    for (std::int64_t h = 0; h < heads; ++h) {
      double total = 0;
      for (std::int64_t pass = 0; pass < 2; ++pass)
        for (std::int64_t key = 0; key <= row; ++key) {
          const auto n = sequence_of(key);
          const auto distance = position[row] - position[key];
          if ((n != own && n != s.parent(own)) || (o.window > 0 && distance >= o.window)) continue;
          double product = 0;
          for (std::int64_t d = 0; d < depth; ++d)
            product += at(a, i, h)[d] * at(b, key, h * kv_heads / heads)[d];
          double score = product * o.scale;
          if (!o.alibi_slopes.empty())
            score -= static_cast<double>(o.alibi_slopes[static_cast<std::size_t>(h)]) *
                     static_cast<double>(distance);
          const double e = std::exp(score);
          if (pass == 0) total += e;
          for (std::int64_t d = 0; d < depth && pass == 1; ++d)
            at(out, i, h)[d] += e / total * at(c, key, h * kv_heads / heads)[d];
        }
    }
  }
  return out;
}

struct RoughPowerKernel {
  static constexpr bool kUsesBFloat16 = true;

  template <simd::Isa isa>
  [[gnu::always_inline]] static void run(const float* from, float* to) {
    simd::store(to, simd::exp2_rough<isa>(simd::load(from)));
  }
};

}  // namespace

TEST_CASE(
    "simd: exp2_rough is exact to 3e-6, and exact at whole numbers; small for small numbers, NaN for NaN") {
  support::for_each_isa([] {
    float in[16] = {}, out[16];
    for (float x = -126; x <= 127; x += 0.0625f) {
      std::fill_n(in, 16, x);
      simd::run<RoughPowerKernel>(static_cast<const float*>(in), out + 0);
      const double error = std::abs(out[3] / std::exp2(static_cast<double>(x)) - 1);
      CHECK(error <= (x == std::floor(x) ? 0 : 3e-6));
    }
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    const float ends[16] = {std::numeric_limits<float>::quiet_NaN(), -127, -1000, -1e30f, -kInfinity};
    simd::run<RoughPowerKernel>(ends + 0, out + 0);
    CHECK(std::isnan(out[0]));
    for (int i = 1; i < 5; ++i) CHECK((0 <= out[i] && out[i] < 1.2e-38f));
    CHECK(out[5] == 1);
  });
}

TEST_CASE("attention: shared keys, windows and biases equal the definition in float64, and its gradients") {
  const std::vector<std::int64_t> lengths{5, 70, 1, 33}, tails{50, 4, 20, 1, 12};
  struct Kind {
    std::int64_t heads, kv_heads, depth, window;
    bool biased;
  };
  const std::vector<Kind> kinds{{4, 2, 16, 0, false},  {6, 1, 7, 0, false},  {3, 3, 11, 4, false},
                                {4, 2, 24, 17, true},  {5, 5, 8, 0, true},   {2, 1, 33, 1, false},
                                {6, 3, 16, 40, false}, {4, 1, 5, 1000, true}};
  for (const auto& kind : kinds)
    for (const std::int64_t shape : {0, 1, 2}) {  // all rows; some of them; continuations of a shared prefix
      const auto s = shape == 2 ? Sequences::of(tails, {-1, 0, 0, 0, -1}) : Sequences::of(lengths);
      const at::Tensor rows = shape == 1 ? support::longs({4, 5, 37, 60, 74, 76, 108}) : at::arange(s.rows());
      const auto width = kind.heads * kind.depth, narrow = kind.kv_heads * kind.depth;
      ops::AttentionOptions options{
          .heads = kind.heads, .kv_heads = kind.kv_heads, .scale = 0.3, .window = kind.window};
      for (std::int64_t h = 0; h < kind.heads && kind.biased; ++h)
        options.alibi_slopes.push_back(std::exp2(-static_cast<float>(h + 1)));
      const auto plan = ops::AttentionPlan::of(s, shape == 1 ? rows : at::Tensor{});
      for (const auto type : {at::kFloat, at::kBFloat16}) {
        const at::Tensor q = random({rows.numel(), width}, 1).to(type), d = random(q.sizes(), 2).to(type),
                         kv = random({s.rows(), 2 * narrow + 5}, 3).to(type);
        const at::Tensor k = kv.narrow(1, 0, narrow), v = kv.narrow(1, narrow + 5, narrow);
        const auto leaf = [](const at::Tensor& t) {
          return t.to(at::kDouble).clone().set_requires_grad(true);
        };
        const at::Tensor a = leaf(q), b = leaf(k), c = leaf(v);
        const at::Tensor y = ops::attention_reference(a, b, c, plan, options);
        CHECK(relative_error(y.detach(), by_definition(q, k, v, s, rows, options)) < 1e-7);
        y.backward(d.to(at::kDouble));
        support::for_each_isa([&] {
          INFO("heads ", kind.heads, " of keys ", kind.kv_heads, " depth ", kind.depth, " window ",
               kind.window, " shape ", shape, " type ", static_cast<int>(type));
          const double limit = support::tolerance(type);
          const auto result = ops::attention(q, k, v, plan, options);
          CHECK(relative_error(result.out, y.detach()) < limit);
          if (shape == 2) return;
          const at::Tensor dq = at::zeros_like(q), dkv = at::zeros_like(kv);
          const at::Tensor dk = dkv.narrow(1, 0, narrow), dv = dkv.narrow(1, narrow + 5, narrow);
          ops::attention_backward(d, q, k, v, result.lse, dq, dk, dv, plan, options);
          CHECK(relative_error(dv, c.grad()) < limit);
          if (kind.window == 1) {  // one key: its probability is 1 whatever the scores
            CHECK(support::magnitude(dq) + support::magnitude(dk) < limit * support::magnitude(d));
          } else {
            CHECK(relative_error(dq, a.grad()) < limit);
            CHECK(relative_error(dk, b.grad()) < limit);
          }
          CHECK(support::magnitude(dkv.narrow(1, narrow, 5)) == 0);
        });
      }
    }
}

TEST_CASE("attention: shared keys drop by query head; threads change no bits") {
  const std::vector<std::int64_t> lengths{45};
  const auto s = Sequences::of(lengths);
  const auto plan = ops::AttentionPlan::of(s);
  const ops::AttentionOptions options{
      .heads = 6, .kv_heads = 2, .scale = 0.4, .window = 30, .dropout = 0.3, .key = 5};
  const at::Tensor q = random({45, 6 * 9}, 1), kv = random({45, 2 * 18}, 2), d = random(q.sizes(), 3);
  const at::Tensor k = kv.narrow(1, 0, 18), v = kv.narrow(1, 18, 18);
  const auto expected = by_autograd(q, k, v, d, plan, options);
  const auto run = [&] {
    const auto result = ops::attention(q, k, v, plan, options);
    Gradients g{result.out, at::zeros_like(q), at::zeros({45, 18}), at::zeros({45, 18})};
    ops::attention_backward(d, q, k, v, result.lse, g.dq, g.dk, g.dv, plan, options);
    return g;
  };
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const auto single = run();
  at::set_num_threads(5);  // more than key heads: a forward pass splits their query heads
  const auto several = run();
  at::set_num_threads(threads);
  for (const auto part : {&Gradients::out, &Gradients::dq, &Gradients::dk, &Gradients::dv}) {
    CHECK(relative_error(single.*part, expected.*part) < support::tolerance(at::kFloat));
    CHECK(at::equal(single.*part, several.*part));
  }
}

TEST_CASE("attention: heads may be strided, and a tail of a cache sees its window") {
  const std::vector<std::int64_t> lengths{40, 7};
  const auto s = Sequences::of(lengths);
  const auto plan = ops::AttentionPlan::of(s);
  const ops::AttentionOptions options{.heads = 3, .scale = 0.3};
  const at::Tensor fused = random({47, 3, 3 * 10}, 1), d = random({47, 30}, 2);  // q, k and v of each head
  const auto part = [](const at::Tensor& t, std::int64_t i) { return t.narrow(2, 10 * i, 10); };
  const auto flat = [&](std::int64_t i) { return part(fused, i).flatten(1).contiguous(); };
  const auto expected = by_kernel(flat(0), flat(1), flat(2), d, plan, options);
  const at::Tensor gradient = at::zeros_like(fused);
  const auto result = ops::attention(part(fused, 0), part(fused, 1), part(fused, 2), plan, options);
  ops::attention_backward(d, part(fused, 0), part(fused, 1), part(fused, 2), result.lse, part(gradient, 0),
                          part(gradient, 1), part(gradient, 2), plan, options);
  CHECK(at::equal(result.out, expected.out));
  CHECK(at::equal(part(gradient, 0).flatten(1), expected.dq));
  CHECK(at::equal(part(gradient, 1).flatten(1), expected.dk));
  CHECK(at::equal(part(gradient, 2).flatten(1), expected.dv));

  ops::AttentionOptions near{.heads = 6, .kv_heads = 2, .scale = 0.3, .window = 20};
  const std::vector<std::int64_t> one{100};
  const at::Tensor q = random({100, 60}, 4), k = random({100, 20}, 5), v = random({100, 20}, 6);
  const at::Tensor all = ops::attention(q, k, v, ops::AttentionPlan::of(Sequences::of(one)), near).out;
  at::Tensor unread = k.clone();
  unread.narrow(0, 0, 70).fill_(std::numeric_limits<float>::quiet_NaN());
  CHECK(at::equal(ops::attention(q.narrow(0, 97, 3), unread, v, ops::AttentionPlan::tail(3, 100), near).out,
                  all.narrow(0, 97, 3)));
}

TEST_CASE("attention: heads, widths, windows and slopes that do not fit are refused") {
  const std::vector<std::int64_t> lengths{4};
  const auto plan = ops::AttentionPlan::of(Sequences::of(lengths));
  const at::Tensor q = random({4, 12}, 1), k = random({4, 6}, 2);
  const auto message = [&](const ops::AttentionOptions& o) {
    return support::message_of<ArgumentError>([&] { (void)ops::attention(q, k, k, plan, o); });
  };
  CHECK(message({.heads = 4, .kv_heads = 3}) == "4 query heads do not divide among 3 key heads");
  CHECK(message({.heads = 5, .kv_heads = 5}) == "a width of 12 does not divide into 5 heads");
  CHECK(message({.heads = 4}) ==
        "keys are 6 wide and values 6, but 4 heads as wide as a query's, 3, need 12");
  CHECK(message({.heads = 4, .kv_heads = 2, .window = -1}).find("window is -1") != std::string::npos);
  CHECK(message({.heads = 4, .kv_heads = 2, .alibi_slopes = {1}}).find("1 slopes") != std::string::npos);
}

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

TEST_CASE("attention: sequences longer than what is summed at once, with windows, gaps, dropout and biases") {
  const std::vector<std::int64_t> lengths{7, 290};
  const auto s = Sequences::of(lengths);
  std::vector<std::int64_t> some;
  for (std::int64_t row = 50; row < s.rows(); row += row % 80 < 60 ? 1 : 9) some.push_back(row);
  const at::Tensor rows = at::tensor(some);
  const std::int64_t heads = 2, depth = 40, width = heads * depth;
  const at::Tensor qkv = random({s.rows(), 3 * width}, 1).to(at::kBFloat16);
  const auto part = [&](std::int64_t i) { return qkv.narrow(1, i * width, width); };
  for (const std::int64_t window : {0, 3, 50, 140})
    for (const bool chosen : {false, true})
      for (const double rate : {0.0, 0.3}) {
        INFO("window ", window, " chosen ", chosen, " rate ", rate);
        ops::AttentionOptions options{
            .heads = heads, .scale = 0.2, .window = window, .dropout = rate, .key = 3};
        if (window == 50) options.alibi_slopes = {0.5f, 0.02f};
        const auto plan = chosen ? ops::AttentionPlan::of(s, rows) : ops::AttentionPlan::of(s);
        const at::Tensor q = chosen ? part(0).index_select(0, rows) : part(0);
        const at::Tensor d = random(q.sizes(), 2).to(at::kBFloat16);
        const auto ours = by_kernel(q, part(1), part(2), d, plan, options);
        const auto expected = by_autograd(q, part(1), part(2), d, plan, options);
        const double limit = support::tolerance(at::kBFloat16);
        CHECK(relative_error(ours.out, expected.out) < limit);
        CHECK(relative_error(ours.dq, expected.dq) < limit);
        CHECK(relative_error(ours.dk, expected.dk) < limit);
        CHECK(relative_error(ours.dv, expected.dv) < limit);
      }
}

TEST_CASE("attention: bits do not depend on the number of threads, nor masks on the packing") {
  const std::vector<std::int64_t> lengths{20, 41, 3}, one{41};
  auto packed = Sequences::of(lengths), alone = Sequences::of(one);
  packed.samples = {7, 3, 5};
  alone.samples = {3};
  const ops::AttentionOptions options{.heads = 2, .scale = 0.3, .dropout = 0.3, .key = 4};
  const auto run = [&](const Sequences& s, const at::Tensor& t, const at::Tensor& dout) {
    return by_kernel(t.narrow(1, 0, 24), t.narrow(1, 24, 24), t.narrow(1, 48, 24), dout,
                     ops::AttentionPlan::of(s), options);
  };
  const int threads = at::get_num_threads();
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const at::Tensor qkv = random({packed.rows(), 3 * 24}, 1).to(type),
                     d = random({packed.rows(), 24}, 2).to(type);
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

}  // namespace attention_test
