#include <ATen/ops/zeros.h>

#include <vector>

#include "offsite/ops/behind_norm.hpp"
#include "offsite/ops/norm.hpp"
#include "offsite/ops/rms_norm.hpp"
#include "support/tensors.hpp"
#include "support/test.hpp"

namespace behind_norm_test {

using namespace offsite;
using support::random;
using support::relative_error;

namespace {

constexpr std::int64_t kRows = 150, kIn = 70, kOut = 130;

std::vector<at::Tensor*> tensors(LayerNorm& norm) { return {&norm.weight, &norm.bias}; }
std::vector<at::Tensor*> tensors(RmsNorm& norm) { return {&norm.weight}; }

/// The gradients that a backward pass adds to those of the tensors that `trains` names: norm's, then weight and bias.
template <class Norm>
std::vector<at::Tensor> gradients(Norm norm, WeightLayout layout, at::ScalarType type,
                                  const std::vector<bool>& trains, const LowRank& change, bool reference) {
  const bool in_out = layout == WeightLayout::kInOut;
  Linear layer{random(in_out ? at::IntArrayRef{kIn, kOut} : at::IntArrayRef{kOut, kIn}, 1, 0.1).to(type),
               random({kOut}, 2).to(type), layout};
  const at::Tensor x = random({kRows, kIn}, 3).add_(0.5).to(type), d = random({kRows, kOut}, 4).to(type);
  auto all = tensors(norm);
  for (auto* t : all) *t = t->to(type).clone();
  all.push_back(&layer.weight), all.push_back(&layer.bias);
  std::vector<at::Tensor> result;
  if (reference) {
    layer.low_rank = change;
    for (auto* t : all) *t = t->to(at::kFloat).clone().set_requires_grad(true);
    layer.forward(norm.forward(x.to(at::kFloat))).backward(d.to(at::kFloat));
    for (std::size_t i = 0; i < all.size(); ++i) result.push_back(trains[i] ? all[i]->grad() : at::Tensor());
    return result;
  }
  c10::NoGradGuard no_grad;
  for (std::size_t i = 0; i < all.size(); ++i)
    if (trains[i]) all[i]->mutable_grad() = at::zeros(all[i]->sizes(), at::kFloat);
  layer.low_rank = change;
  if (change.defined()) layer.low_rank.a = change.a.to(type), layer.low_rank.b = change.b.to(type);
  typename Norm::Saved saved;
  Linear::Saved kept;
  (void)layer.forward(norm.forward(x, saved, true), kept, true);
  BehindNorm behind(norm, saved);
  for (int time = 0; time < 2; ++time) behind.backward(layer, d, kept);  // gradients add up
  for (auto* t : all) result.push_back(t->grad().defined() ? t->grad().div(2) : at::Tensor());
  return result;
}

template <class Norm>
void check(const Norm& norm, const std::vector<bool>& trains, const LowRank& change = {}) {
  support::for_each_isa([&] {
    for (const auto layout : {WeightLayout::kInOut, WeightLayout::kOutIn})
      for (const auto type : {at::kFloat, at::kBFloat16}) {
        const auto expected = gradients(norm, layout, type, trains, change, true);
        const auto found = gradients(norm, layout, type, trains, change, false);
        for (std::size_t i = 0; i < expected.size(); ++i) {
          CAPTURE(i);
          CHECK(found[i].defined() == trains[i]);
          if (trains[i]) CHECK(relative_error(found[i], expected[i]) < 2 * support::tolerance(type));
        }
      }
  });
}

}  // namespace

TEST_CASE(
    "BehindNorm: the gradients of a layer norm and a layer behind it equal autograd's, without the layer's "
    "input's") {
  const LayerNorm norm{random({kIn}, 5), random({kIn}, 6)};
  check(norm, {true, true, true, true});
  check(norm, {true, false, true, false});
  check(norm, {false, true, true, true});
  check(norm, {true, true, false, true});  // takes the layer's input's gradient, as in BitFit
}

TEST_CASE("BehindNorm: a norm by root mean squares, whose rows are scaled by its weight or by 1 + that") {
  check(RmsNorm{.weight = random({kIn}, 5)}, {true, true, true});
  check(RmsNorm{.weight = random({kIn}, 5), .zero_centred = true}, {true, true, true});
}

TEST_CASE("BehindNorm: a weight of zero in the norm divides nothing") {
  check(LayerNorm{at::zeros({kIn}), random({kIn}, 6)}, {true, true, true, true});
}

TEST_CASE("BehindNorm: a layer with a low-rank change passes its input's gradient on") {
  check(LayerNorm{random({kIn}, 5), random({kIn}, 6)}, {true, true, true, true},
        {.a = random({4, kIn}, 7), .b = random({kOut, 4}, 8, 0.1), .magnitude = {}});
}

}  // namespace behind_norm_test
