#include "offsite/ops/rope.hpp"

#include <ATen/ops/arange.h>
#include <ATen/ops/zeros.h>

#include <vector>

#include "support/tensors.hpp"
#include "support/test.hpp"

namespace rope_test {

using namespace offsite;
using support::random;
using support::relative_error;

TEST_CASE(
    "Rope: turning in place equals the definition, and its gradient autograd, for odd sizes and both types") {
  const std::vector<std::int64_t> lengths{5, 40, 1};
  const auto s = Sequences::of(lengths);
  support::for_each_isa([&] {
    for (const auto type : {at::kFloat, at::kBFloat16})
      for (const std::int64_t dims : {2, 6, 7, 16, 34, 64})
        for (const std::int64_t depth : {64, 65}) {
          INFO("dims ", dims, " depth ", depth);
          const Rope rope({.dims = dims});
          const auto rows = rope.rows(s);
          const at::Tensor wide = random({46, 3, depth + 2}, 1).to(type);  // strided heads
          const at::Tensor x = wide.narrow(2, 1, depth).clone(), d = random(x.sizes(), 2).to(type);
          const at::Tensor leaf = x.to(at::kFloat).set_requires_grad(true);
          const at::Tensor y = ops::rope_reference(leaf, 3, rows);
          y.backward(d.to(at::kFloat));
          const at::Tensor ours = wide.clone(), part = ours.narrow(2, 1, depth);
          ops::rope_(part, 3, rows);
          CHECK(relative_error(part, y.detach()) < support::tolerance(type));
          CHECK(at::equal(ours.select(2, 0), wide.select(2, 0)));
          CHECK(at::equal(ours.select(2, depth + 1), wide.select(2, depth + 1)));
          at::Tensor back = d.flatten(1).contiguous();
          ops::rope_(back, 3, rows, true);
          CHECK(relative_error(back, leaf.grad().flatten(1)) < support::tolerance(type));

          const auto turned = dims + dims % 2;  // the definition, for one head of one row
          const double angle = 39 * std::pow(10000.0, -2.0 * 1 / static_cast<double>(dims));
          if (turned < 4) continue;
          const at::Tensor row = wide.select(0, 44).select(0, 2).narrow(0, 1, depth).to(at::kDouble);
          const double a = row[1].item<double>(), b = row[1 + turned / 2].item<double>();
          CHECK(y.detach()[44][2][1].item<double>() ==
                doctest::Approx(a * std::cos(angle) - b * std::sin(angle)).epsilon(1e-4));
        }
  });
}

TEST_CASE("Rope: scores depend on distances alone; copies share a table that grows") {
  const Rope rope({.dims = 8}), copy = rope;
  const at::Tensor q = random({1, 8}, 1), k = random({1, 8}, 2);
  const auto score = [&](std::int64_t i, std::int64_t j) {
    const at::Tensor a = q.clone(), b = k.clone();
    ops::rope_(a, 1, rope.tail(1, i + 1));
    ops::rope_(b, 1, copy.tail(1, j + 1));
    return a.mul(b).sum().item<double>();
  };
  CHECK(score(7, 3) == doctest::Approx(score(504, 500)).epsilon(1e-4));
  CHECK(score(7, 3) != doctest::Approx(score(7, 4)).epsilon(1e-3));
  CHECK(rope.tail(1, 600).table.size(0) == 1024);
  CHECK(rope.tail(1, 2).table.is_same(copy.tail(1, 2).table));
  CHECK_FALSE(Rope().tail(1, 2).table.defined());
  const std::vector<std::int64_t> one{3};
  auto later = Sequences::of(one);  // rows that go on from earlier ones
  later.positions.add_(5000);
  CHECK(rope.rows(later).table.size(0) >= 5003);
}

TEST_CASE("Rope: a dynamic embedding turns each sequence beyond its context by its own length") {
  const Rope rope({.type = RopeType::kDynamic, .dims = 6, .factor = 2, .context = 10});
  const std::vector<std::int64_t> lengths{4, 25, 10, 13};
  const auto rows = rope.rows(Sequences::of(lengths));
  std::int64_t begin = 0;
  for (const auto n : lengths) {
    const std::vector<std::int64_t> alone{n};
    const auto single = rope.rows(Sequences::of(alone)), tail = rope.tail(n, n);
    const auto angles = [](const RopeRows& r) { return r.table.index_select(0, r.index); };
    CHECK(at::equal(angles(rows).narrow(0, begin, n), angles(single)));
    CHECK(at::equal(angles(rows).narrow(0, begin, n), angles(tail)));
    begin += n;
  }
  const auto chosen = rope.rows(Sequences::of(lengths), support::longs({3, 20, 51}));
  CHECK(at::equal(chosen.index, rows.index.index_select(0, support::longs({3, 20, 51}))));
  const std::vector<std::int64_t> shared{4, 6}, beyond{4, 7};
  CHECK_NOTHROW((void)rope.rows(Sequences::of(shared, {-1, 0})));
  CHECK(support::message_of<ArgumentError>([&] {
          (void)rope.rows(Sequences::of(beyond, {-1, 0}));
        }) ==
        "a sequence of 11 tokens shares a prefix, but a dynamic rotary embedding turns keys by the whole "
        "sequence's "
        "length beyond 10 tokens");
}

TEST_CASE("Rope: options that cannot be give one sentence") {
  const auto message = [](const RopeOptions& o) {
    return support::message_of<ArgumentError>([&] { (void)Rope(o); });
  };
  CHECK(message({.theta = 1}) == "rope_theta is 1, but it must be above 1");
  CHECK(message({.type = RopeType::kLinear, .factor = 0.5}).find("factor") != std::string::npos);
  CHECK(message({.type = RopeType::kYarn, .factor = 2}).find("original context is 0 tokens") !=
        std::string::npos);
  CHECK(message({.type = RopeType::kDynamic, .dims = 2, .factor = 2, .context = 4}).find("3 or more") !=
        std::string::npos);
  CHECK(
      message({.type = RopeType::kLlama3, .factor = 2, .context = 4, .low_freq_factor = 4}).find("ascend") !=
      std::string::npos);
  CHECK(support::message_of<ArgumentError>([] { (void)rope_type_of("longrope"); }) ==
        "the rotary embedding type \"longrope\" is not known; the known ones are default, linear, dynamic, "
        "llama3 and "
        "yarn");
}

}  // namespace rope_test
