#include "offsite/ops/rms_norm.hpp"

#include <ATen/Parallel.h>
#include <ATen/ops/zeros.h>

#include "support/tensors.hpp"
#include "support/test.hpp"

namespace rms_norm_test {

using namespace offsite;
using support::random;
using support::relative_error;

TEST_CASE("RmsNorm: both passes equal the definition and autograd, for odd widths, both types and kinds") {
  support::for_each_isa([&] {
    for (const auto type : {at::kFloat, at::kBFloat16})
      for (const std::int64_t width : {1, 7, 16, 33, 100})
        for (const bool centred : {false, true}) {
          INFO("width ", width, " zero-centred ", centred);
          const RmsNorm norm{random({width}, 3).to(type), 1e-3, centred};
          const at::Tensor wide = random({9, width + 3}, 1).to(type), x = wide.narrow(1, 2, width),
                           d = random({9, width}, 2).to(type);
          const RmsNorm wanted{norm.weight.to(at::kFloat).clone().set_requires_grad(true), 1e-3, centred};
          const at::Tensor leaf = x.to(at::kFloat).clone().set_requires_grad(true);
          const at::Tensor y = wanted.forward(leaf);
          y.backward(d.to(at::kFloat));
          const at::Tensor row = x[4].to(at::kDouble), w = norm.weight.to(at::kDouble);
          const at::Tensor by_hand = row.div(std::sqrt(row.mul(row).mean().item<double>() + 1e-3));
          CHECK(relative_error(y.detach()[4], by_hand.mul(centred ? w.add(1) : w)) < 1e-6);

          norm.weight.mutable_grad() = at::zeros({width}, at::kFloat).fill_(0.5);
          RmsNorm::Saved saved;
          CHECK(relative_error(norm.forward(x, saved, true), y.detach()) < support::tolerance(type));
          const at::Tensor dx = norm.backward(d, saved);
          if (width > 1) CHECK(relative_error(dx, leaf.grad()) < support::tolerance(type));
          CHECK(relative_error(norm.weight.grad().sub(0.5), wanted.weight.grad()) < 4e-6);
          CHECK_FALSE(norm.backward(d, saved, false).defined());
        }
  });
}

TEST_CASE("RmsNorm: the number of threads changes no bits; other widths are refused") {
  const RmsNorm norm{random({200}, 3)};
  const at::Tensor x = random({500, 200}, 1), d = random({500, 200}, 2);
  const auto run = [&](int threads) {
    const int before = at::get_num_threads();
    at::set_num_threads(threads);
    norm.weight.mutable_grad() = at::zeros({200}, at::kFloat);
    RmsNorm::Saved saved;
    const at::Tensor y = norm.forward(x, saved, true), dx = norm.backward(d, saved);
    at::set_num_threads(before);
    return std::vector<at::Tensor>{y, dx, norm.weight.grad()};
  };
  const auto one = run(1), three = run(3);
  for (std::size_t i = 0; i < one.size(); ++i) CHECK(at::equal(one[i], three[i]));
  RmsNorm::Saved saved;
  CHECK(support::message_of<ArgumentError>([&] { (void)norm.forward(x.narrow(1, 0, 7), saved, true); }) ==
        "a norm of width 200 was given rows of width 7");
}

}  // namespace rms_norm_test
