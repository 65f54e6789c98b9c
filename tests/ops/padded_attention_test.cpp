#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>

#include <vector>

#include "offsite/ops/attention.hpp"
#include "offsite/ops/cross_entropy.hpp"
#include "support/tensors.hpp"
#include "support/test.hpp"

namespace padded_attention_test {

using namespace offsite;
using support::random;
using support::relative_error;

namespace {

constexpr std::int64_t kLengths[] = {5, 1, 9, 3};

TEST_CASE("padded attention: what accelerators compute is what the kernels compute") {
  const auto sequences = Sequences::of(kLengths);
  const at::Tensor scored = at::tensor(std::vector<std::int64_t>{2, 4, 5, 13, 16, 17});
  for (const auto& rows : {at::Tensor{}, scored})
    for (const std::int64_t kv_heads : {4, 2})
      for (const auto type : {at::kFloat, at::kBFloat16}) {
        const ops::AttentionOptions options{.heads = 4, .kv_heads = kv_heads, .scale = 0.3};
        const auto plan = ops::AttentionPlan::of(sequences, rows);
        const auto count = rows.defined() ? rows.numel() : sequences.rows();
        const at::Tensor q = random({count, 32}, 1).to(type), k = random({18, 8 * kv_heads}, 2).to(type),
                         v = random({18, 8 * kv_heads}, 3).to(type), d = random({count, 32}, 4).to(type);
        const auto expected = ops::attention(q, k, v, plan, options);
        const double tolerance = type == at::kFloat ? 1e-5 : 2e-2;
        CHECK(relative_error(ops::padded_attention(q, k, v, plan, options), expected.out) < tolerance);

        std::vector<at::Tensor> ours, theirs;
        for (const auto* t : {&q, &k, &v}) {
          ours.push_back(at::zeros_like(*t));
          theirs.push_back(at::zeros_like(*t));
        }
        ops::padded_attention_backward(d, q, k, v, ours[0], ours[1], ours[2], plan, options);
        ops::attention_backward(d, q, k, v, expected.lse, theirs[0], theirs[1], theirs[2], plan, options);
        for (std::size_t i = 0; i < 3; ++i) CHECK(relative_error(ours[i], theirs[i]) < tolerance);
      }
}

TEST_CASE("padded attention: refuses what it does not know") {
  const auto plan = ops::AttentionPlan::of(Sequences::of(kLengths));
  const at::Tensor x = random({18, 8}, 1);
  CHECK_THROWS_AS((void)ops::padded_attention(x, x, x, plan, {.heads = 2, .window = 3}), ArgumentError);
  CHECK_THROWS_AS((void)ops::padded_attention(x, x, x, plan, {.heads = 2, .dropout = 0.1}), ArgumentError);
}

TEST_CASE("cross-entropy: what accelerators compute is what the kernel computes") {
  const at::Tensor logits = random({3, 40}, 1), other = logits.clone();
  const at::Tensor targets = at::tensor(std::vector<std::int64_t>{39, 0, 7});
  const auto a = ops::cross_entropy_(logits, targets, 0.5),
             b = ops::cross_entropy_reference_(other, targets, 0.5);
  CHECK(a.sum == doctest::Approx(b.sum));
  CHECK(relative_error(other, logits) < 1e-5);
  CHECK(relative_error(b.log_probabilities, a.log_probabilities) < 1e-5);
}

}  // namespace
}  // namespace padded_attention_test
