#include <ATen/core/Tensor.h>
#include <ATen/ops/equal.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <array>
#include <set>
#include <string>
#include <vector>

#include "offsite/blocks/block_access.hpp"
#include "offsite/blocks/run_blocks.hpp"
#include "offsite/blocks/visit_parameters.hpp"
#include "offsite/models/causal_lm.hpp"
#include "offsite/models/gpt2.hpp"
#include "trainer/own_model.hpp"

#include "support/tensors.hpp"
#include "support/test.hpp"

namespace concepts_test {

using namespace offsite;

// What no compiler can check of a model's accessor, asked of every model. A new model adds one struct.
namespace {

constexpr std::int64_t kBlocks = 5;

struct Gpt2Case {
  using Model = Gpt2;
  static constexpr std::int64_t kWidth = 8;
  static Model make() {
    Gpt2Config config;
    config.n_layer = kBlocks;
    config.n_head = 2;
    config.n_embd = kWidth;
    config.n_positions = 16;
    config.vocab_size = 11;
    config.scale_attn_by_inverse_layer_idx = true;  // so that a block which forgets its number shows
    return Gpt2::random(config, 3);
  }
};

struct OwnModelCase {
  using Model = own::Model;
  static constexpr std::int64_t kWidth = 32;
  static Model make() { return own::random_model(kBlocks, 3); }
};

struct Parameter {
  std::string name;
  at::Tensor tensor;
};

template <class Model>
std::vector<Parameter> parameters(Model& model, const std::vector<std::int64_t>& numbers) {
  std::vector<Parameter> all;
  visit_parameters<BlockAccess<Model>>(model, numbers, [&](const std::string& name, at::Tensor& tensor) {
    all.push_back({name, tensor});
  });
  return all;
}

std::vector<std::string> names(const std::vector<Parameter>& parameters) {
  std::vector<std::string> result;
  for (const auto& parameter : parameters) result.push_back(parameter.name);
  return result;
}

const std::vector<std::int64_t> kAll{0, 1, 2, 3, 4}, kKept{1, 2, 4};

}  // namespace

TEST_CASE_TEMPLATE("model conformance: satisfies the concepts, and visits each parameter once, in one order",
                   Case, Gpt2Case, OwnModelCase) {
  using Model = typename Case::Model;
  static_assert(BlockAccessor<BlockAccess<Model>, Model> && CausalLm<Model>);
  Model model = Case::make();
  const auto first = names(parameters(model, kAll));
  CHECK(first == names(parameters(model, kAll)));
  CHECK(std::set<std::string>(first.begin(), first.end()).size() == first.size());

  std::set<const void*> memory;
  for (const auto& parameter : parameters(model, kAll)) {
    CHECK(parameter.tensor.defined());
    CHECK_FALSE(parameter.name.empty());
    CHECK(memory.insert(parameter.tensor.const_data_ptr()).second);  // a tied one is visited once
  }
}

TEST_CASE_TEMPLATE("model conformance: a selection keeps order and names, and shares memory but no handles",
                   Case, Gpt2Case, OwnModelCase) {
  using Model = typename Case::Model;
  using Access = BlockAccess<Model>;
  Model model = Case::make();
  Model part = Access::select(model, kKept);
  CHECK(Access::num_blocks(model) == kBlocks);
  CHECK(Access::num_blocks(part) == 3);

  const auto whole = parameters(model, kAll), some = parameters(part, kKept);
  for (const auto& parameter : some) {
    const auto same =
        std::find_if(whole.begin(), whole.end(), [&](const auto& p) { return p.name == parameter.name; });
    REQUIRE(same != whole.end());
    CHECK(parameter.tensor.const_data_ptr() == same->tensor.const_data_ptr());
  }
  std::vector<at::Tensor> before;
  for (const auto& parameter : whole) before.push_back(parameter.tensor.clone());
  const auto negate = [](std::string_view, at::Tensor& tensor) { tensor = tensor.neg(); };
  part.visit_shared(negate);
  for (std::int64_t i = 0; i < 3; ++i) Access::visit(Access::block(part, i), negate);
  const auto after = parameters(model, kAll);
  for (std::size_t i = 0; i < after.size(); ++i) CHECK(at::equal(after[i].tensor, before[i]));
}

TEST_CASE_TEMPLATE(
    "model conformance: running the blocks is folding forward; a block computes with its own number", Case,
    Gpt2Case, OwnModelCase) {
  using Model = typename Case::Model;
  using Access = BlockAccess<Model>;
  const c10::NoGradGuard no_grad;
  Model model = Case::make();
  const std::array<std::int64_t, 3> lengths{4, 1, 6};
  const auto s = Sequences::of(lengths);
  const at::Tensor input = support::random({s.rows(), Case::kWidth}, 11), rows = support::longs({0, 4, 9});
  const auto fold = [&](Model& of, const std::vector<std::int64_t>& places) {
    at::Tensor h = input;
    for (const auto i : places) h = Access::forward(Access::block(of, i), h, s);
    return h;
  };
  const at::Tensor whole = run_blocks<Access>(model, input, s);
  CHECK(support::relative_error(whole, fold(model, kAll)) < support::tolerance(at::kFloat));
  CHECK(support::relative_error(run_blocks<Access>(model, input, s, rows), whole.index_select(0, rows)) <
        support::tolerance(at::kFloat));
  Model part = Access::select(model, kKept);
  CHECK(at::equal(fold(part, {0, 1, 2}), fold(model, kKept)));
  CHECK_FALSE(at::equal(fold(part, {0, 1, 2}), fold(part, {2, 1, 0})));  // the blocks do differ

  // Sequences do not see each other, nor does a row see later rows of its own.
  const auto last = s.begin(2), length = s.length(2);
  at::Tensor changed = input.clone();
  changed.narrow(0, last + length - 1, 1).add_(1);
  const at::Tensor other = run_blocks<Access>(model, changed, s);
  CHECK(at::equal(other.narrow(0, 0, last + length - 1), whole.narrow(0, 0, last + length - 1)));
  CHECK_FALSE(at::equal(other, whole));
}

}  // namespace concepts_test
