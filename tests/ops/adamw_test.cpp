#include "offsite/ops/adamw.hpp"

#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/zeros.h>

#include <limits>

#include "support/tensors.hpp"
#include "support/test.hpp"

namespace adamw_test {

using namespace offsite;
using support::random;
using support::relative_error;

namespace {

/// A model that starts to train, `n` numbers.
ops::AdamwTensors start(std::int64_t n, at::ScalarType copy) {
  return {random({n}, 1), at::zeros({n}), at::zeros({n}), at::zeros({n}),
          copy == at::ScalarType::Undefined ? at::Tensor() : at::empty({n}, copy)};
}

}  // namespace

TEST_CASE("adamw_: equals ATen's fused kernel over several steps, and clears the gradients") {
  support::for_each_isa([] {
    for (const std::int64_t n : {1, 16, 37, 16384 + 21})
      for (const double decay : {0.0, 0.1})
        for (const double beta1 :
             {0.9, 0.2})  // on both sides of a half, where the kernel begins at the other end
          for (const auto copy : {at::kBFloat16, at::kFloat, at::ScalarType::Undefined, at::kHalf}) {
            auto ours = start(n, copy), expected = start(n, copy);
            for (int count = 1; count <= 3; ++count) {
              const ops::AdamwStep step{.learning_rate = 0.01,
                                        .beta1 = beta1,
                                        .weight_decay = decay,
                                        .count = 1.0 * count,
                                        .divisor = 2.5};
              ours.gradients.copy_(random({n}, static_cast<std::uint64_t>(count + 1)));
              expected.gradients.copy_(ours.gradients);
              ops::adamw_(ours, step);
              ops::adamw_reference(expected, step);
              CHECK(at::equal(ours.gradients, at::zeros({n})));
            }
            CHECK(relative_error(ours.values, expected.values) < 1e-6);
            CHECK(relative_error(ours.first_moment, expected.first_moment) < 1e-6);
            CHECK(relative_error(ours.second_moment, expected.second_moment) < 1e-6);
            if (copy != at::ScalarType::Undefined) CHECK(at::equal(ours.copy, ours.values.to(copy)));
          }
  });
}

TEST_CASE("adamw_: a slice at any offset, as one without weight decay is") {
  support::for_each_isa([] {
    for (const std::int64_t offset : {1, 8, 16}) {
      const std::int64_t n = 85;
      const auto whole = start(n, at::kBFloat16), expected = start(n, at::kBFloat16);
      for (const auto* t : {&whole, &expected}) {
        t->gradients.copy_(random({n}, 2));
        t->copy.zero_();
      }
      const auto slice = [&](const at::Tensor& flat) { return flat.narrow(0, offset, n - offset - 1); };
      for (const auto* t : {&whole, &expected}) {
        const ops::AdamwTensors part{slice(t->values), slice(t->gradients), slice(t->first_moment),
                                     slice(t->second_moment), slice(t->copy)};
        t == &whole ? ops::adamw_(part, {.learning_rate = 0.1})
                    : ops::adamw_reference(part, {.learning_rate = 0.1});
      }
      CHECK(relative_error(whole.values, expected.values) < 1e-6);
      CHECK(at::equal(slice(whole.copy), slice(whole.values).to(at::kBFloat16)));
      CHECK(at::equal(whole.copy.narrow(0, 0, offset), expected.copy.narrow(0, 0, offset)));
      CHECK(whole.copy[n - 1].item<float>() == 0);
    }
  });
}

TEST_CASE("adamw_: other types go to ATen; NaN does not disappear; sizes that differ are refused") {
  auto wide = start(20, at::kFloat), expected = start(20, at::kFloat);
  for (auto* t : {&wide, &expected})
    for (auto* flat : {&t->values, &t->gradients, &t->first_moment, &t->second_moment})
      *flat = flat->to(at::kDouble);
  wide.gradients.fill_(2);
  expected.gradients.fill_(2);
  ops::adamw_(wide, {.learning_rate = 0.1});
  ops::adamw_reference(expected, {.learning_rate = 0.1});
  CHECK(at::equal(wide.values, expected.values));

  auto broken = start(20, at::kBFloat16);
  broken.gradients.select(0, 17).fill_(std::numeric_limits<float>::quiet_NaN());
  ops::adamw_(broken, {.learning_rate = 0.1});
  CHECK(broken.values.isnan().sum().item<int>() == 1);
  CHECK(broken.copy.isnan().select(0, 17).item<bool>());

  broken.gradients = at::zeros({19});
  CHECK(support::message_of<ArgumentError>([&] { ops::adamw_(broken, {}); }) ==
        "a step of AdamW was given 20 values, but 19 gradients or moments");
}

TEST_CASE("squared_norm: as in double, the same bits for every instruction set and number of threads") {
  for (const std::int64_t n : {1, 31, 16384, 100003}) {
    const at::Tensor x = random({n}, 3, 1e-3);
    const double expected = at::linalg_vector_norm(x.to(at::kDouble), 2).item<double>(),
                 whole = ops::squared_norm(x);
    CHECK(std::abs(std::sqrt(whole) - expected) <= 1e-12 * expected);
    support::for_each_isa([&] { CHECK(ops::squared_norm(x) == whole); });
    const int threads = at::get_num_threads();
    for (const int other : {1, 3}) {
      at::set_num_threads(other);
      CHECK(ops::squared_norm(x) == whole);
    }
    at::set_num_threads(threads);
  }
  at::Tensor x = random({50}, 1);
  CHECK(std::abs(ops::squared_norm(x.to(at::kDouble)) - ops::squared_norm(x)) < 1e-9);
  x.select(0, 49).fill_(std::numeric_limits<float>::infinity());
  CHECK(std::isinf(ops::squared_norm(x)));
}

}  // namespace adamw_test
