#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linspace.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "offsite/ops/accumulate.hpp"
#include "offsite/ops/activation.hpp"
#include "offsite/ops/embedding.hpp"
#include "support/tensors.hpp"
#include "support/test.hpp"

namespace elementwise_test {

using namespace offsite;
using support::random;
using support::relative_error;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

struct CopyKernel {
  template <simd::Isa, class From, class To>
  [[gnu::always_inline]] static void run(const From* from, To* to, std::int64_t n) {
    simd::store_some(to, simd::load_some(from, n), n);
    if (n == simd::kLanes) simd::store(to, simd::load(from));
  }
};
struct ExpKernel {
  template <simd::Isa>
  [[gnu::always_inline]] static void run(const float* from, float* to) {
    simd::store(to, simd::exp(simd::load(from)));
  }
};
struct PowerKernel {
  template <simd::Isa>
  [[gnu::always_inline]] static void run(const float* from, float* to) {
    simd::store(to, simd::exp2_bounded(simd::load(from)));
  }
};
/// One vector of `from`, read and written by the instruction set's own ways, between -1 and 1.
struct LimitKernel {
  static constexpr bool kUsesBFloat16 = true;

  template <simd::Isa isa, class T>
  [[gnu::always_inline]] static void run(const T* from, T* to) {
    simd::store<isa>(to, simd::min<isa>(1.0f, simd::max<isa>(-1.0f, simd::load<isa>(from))));
  }
};

}  // namespace

TEST_CASE("simd: exp is exact to a few ulp, saturates at both ends, NaN for NaN") {
  support::for_each_isa([] {
    for (float x = -87; x < 88; x += 0.37f) {
      float in[16], out[16];
      std::fill_n(in, 16, x);
      simd::run<ExpKernel>(in + 0, out + 0);
      CHECK(out[7] == doctest::Approx(std::exp(static_cast<double>(x))).epsilon(4e-7));
    }
    float in[16] = {kNaN, kInfinity, -kInfinity, 0, -1e30f, 1e30f, 100, -100}, out[16];
    simd::run<ExpKernel>(in + 0, out + 0);
    CHECK(std::isnan(out[0]));
    CHECK(out[3] == 1);
    for (const int large : {1, 5, 6}) CHECK((2e38f < out[large] && out[large] < kInfinity));
    for (const int tiny : {2, 4, 7}) CHECK((0 < out[tiny] && out[tiny] < 1.3e-38f));
  });
}

TEST_CASE("simd: exp2_bounded is exact to a few ulp, and exact at whole numbers; NaN for NaN") {
  support::for_each_isa([] {
    for (float x = -126; x <= 127; x += 0.0625f) {
      float in[16], out[16];
      std::fill_n(in, 16, x);
      simd::run<PowerKernel>(in + 0, out + 0);
      const double error = std::abs(out[3] / std::exp2(static_cast<double>(x)) - 1);
      CHECK(error <= (x == std::floor(x) ? 0 : 2.4e-7));
    }
    float in[16] = {kNaN}, out[16];
    simd::run<PowerKernel>(in + 0, out + 0);
    CHECK(std::isnan(out[0]));
  });
}

TEST_CASE(
    "simd: min and max keep the second operand where one is NaN; loads of one instruction equal others") {
  support::for_each_isa([] {
    float in[16] = {kNaN, kInfinity, -kInfinity, 0,  -0.5f, 0.5f,   1,     -1,
                    2,    -2,        0.25f,      -3, 3,     0.125f, -1.5f, 1e-30f};
    simd::BFloat16 narrow[16], narrow_out[16];
    float out[16];
    for (int i = 0; i < 16; ++i) narrow[i] = in[i];
    simd::run<LimitKernel>(static_cast<const float*>(in), out + 0);
    simd::run<LimitKernel>(static_cast<const simd::BFloat16*>(narrow), narrow_out + 0);
    CHECK(std::isnan(out[0]));
    CHECK(std::isnan(static_cast<float>(narrow_out[0])));
    for (int i = 1; i < 16; ++i) {
      CHECK(out[i] == std::clamp(in[i], -1.0f, 1.0f));
      CHECK(static_cast<float>(narrow_out[i]) == std::clamp(static_cast<float>(narrow[i]), -1.0f, 1.0f));
    }
  });
}

TEST_CASE("simd: bfloat16 rounds to nearest even like LibTorch and keeps NaN and infinity") {
  support::for_each_isa([] {
    for (std::int64_t n = 1; n <= 16; ++n) {
      float in[16] = {1.00390625f, 1.01171875f, kNaN,   -kInfinity, kInfinity,
                      3.4e38f,     -0.0f,       1e-40f, 1.0f / 3};
      const std::uint32_t worst = 0x7fffffffu;  // a NaN whose rounding would carry into the sign
      std::memcpy(&in[9], &worst, sizeof worst);
      in[10] = 65504.5f;
      in[15] = -2.71828f;
      c10::BFloat16 out[17];
      out[n] = 77;
      simd::run<CopyKernel>(in + 0, out + 0, n);
      CHECK(static_cast<float>(out[n]) == 77);  // nothing past the end
      for (std::int64_t i = 0; i < n; ++i) {
        const float expected = static_cast<float>(c10::BFloat16(in[i])), found = static_cast<float>(out[i]);
        CHECK((std::isnan(expected) ? std::isnan(found) : expected == found));
      }
    }
  });
}

TEST_CASE("accumulate: equals ATen's sum for odd sizes, strided rows and both types") {
  support::for_each_isa([] {
    for (const auto type : {at::kFloat, at::kBFloat16})
      for (const std::int64_t columns : {1, 15, 16, 33, 200}) {
        const at::Tensor from = random({7, columns}, 1).to(type);
        at::Tensor whole = random({7, columns + 5}, 2), to = whole.narrow(1, 3, columns);
        const at::Tensor expected = to.add(from.to(at::kFloat)), before = whole.clone();
        ops::accumulate(to, from);
        CHECK(at::equal(to, expected));
        CHECK(at::equal(whole.narrow(1, 0, 3), before.narrow(1, 0, 3)));
        CHECK(at::equal(whole.narrow(1, columns + 3, 2), before.narrow(1, columns + 3, 2)));
        at::Tensor flat = random({7, columns}, 3);
        const at::Tensor sum = flat.add(from.to(at::kFloat));
        ops::accumulate(flat, from);
        CHECK(at::equal(flat, sum));

        at::Tensor bias = random({columns}, 4);
        const at::Tensor rows = bias.to(at::kDouble).add(from.to(at::kDouble).sum(0));
        ops::accumulate_rows(bias, from);
        CHECK(relative_error(bias, rows) < 1e-6);
      }
  });
}

TEST_CASE("scatter_add_rows: equals index_add, repeated indices included") {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const at::Tensor index = support::longs({3, 0, 3, 6, 3, 0}), rows = random({6, 71}, 1).to(type);
    at::Tensor table = random({7, 71}, 2);
    const at::Tensor expected = table.to(at::kDouble).index_add(0, index, rows.to(at::kDouble));
    ops::scatter_add_rows(table, index, rows);
    CHECK(relative_error(table, expected) < 1e-6);
  }
}

TEST_CASE("activation: each equals its reference and autograd, in any size, type and instruction set") {
  const auto names = {
      "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu", "gelu_python", "quick_gelu", "relu", "silu",
      "swish",    "tanh"};
  support::for_each_isa([&] {
    for (const auto* name : names)
      for (const auto type : {at::kFloat, at::kBFloat16})
        for (const std::int64_t n : {1, 16, 31, 1000}) {
          INFO(std::string(name), " ", n);
          const auto f = activation_of(name);
          const at::Tensor x = random({n}, 1, 3).to(type), d = random({n}, 2).to(type);
          at::Tensor leaf = x.to(at::kFloat).clone().set_requires_grad(true);
          const at::Tensor expected = ops::activation_reference(leaf, f);
          expected.backward(d.to(at::kFloat));
          CHECK(relative_error(ops::activation(x, f), expected.detach()) < support::tolerance(type));
          at::Tensor in_place = x.clone();
          ops::activation_out(in_place, f, in_place);
          CHECK(at::equal(in_place, ops::activation(x, f)));
          at::Tensor dx = d.clone();
          ops::activation_backward_(dx, x, f);
          CHECK(relative_error(dx, leaf.grad()) < support::tolerance(type));
        }
  });
}

TEST_CASE(
    "activation: float32 is exact to a few ulp wherever a sigmoid is neither 0 nor 1, and continuous at its "
    "limits") {
  using enum Activation;
  support::for_each_isa([] {
    for (const auto f : {kGeluTanh, kQuickGelu, kSilu}) {
      const at::Tensor x = at::linspace(-6, 110, 4001), wide = x.to(at::kDouble);
      const at::Tensor z = f == kGeluTanh ? wide.pow(3).mul(0.044715).add(wide).mul(2 * std::sqrt(2 / M_PI))
                           : f == kQuickGelu ? wide.mul(1.702)
                                             : wide;
      const at::Tensor error =
          ops::activation(x, f).to(at::kDouble).div(wide.mul(at::sigmoid(z))).sub(1).abs();
      // A sigmoid near 0 has the relative error of e^z: that of z times z, which is 25 for GELU here.
      CHECK(error.max().item<double>() < 4e-6);
      CHECK(error.narrow(0, 210, 3000).max().item<double>() < 4e-7);
    }
  });
}

TEST_CASE(
    "activation: NaN stays NaN, infinity does not become NaN in the backward pass; unknown names list the "
    "known") {
  support::for_each_isa([] {
    for (const auto f : {Activation::kGeluTanh, Activation::kQuickGelu, Activation::kSilu}) {
      at::Tensor x = at::full({16}, kNaN), d = at::ones({16});
      x.narrow(0, 0, 8).fill_(kInfinity);
      const at::Tensor y = ops::activation(x, f);
      ops::activation_backward_(d, x, f);
      CHECK(y[0].item<float>() == kInfinity);
      CHECK(d[0].item<float>() == 1);
      CHECK(std::isnan(y[15].item<float>()));
      CHECK(std::isnan(d[15].item<float>()));
      for (const float large : {-kInfinity, -1e20f, -60.0f}) {
        x.fill_(large);
        d.fill_(1);
        ops::activation_backward_(d, x, f);
        CHECK(std::abs(d[3].item<float>()) < 1e-9);
        CHECK(std::abs(ops::activation(x, f)[3].item<float>()) < 1e-9);
      }
    }
  });
  const auto message = support::message_of<ArgumentError>([] { (void)activation_of("gelu_old"); });
  CHECK(message.find("\"gelu_old\"") != std::string::npos);
  CHECK(message.find("quick_gelu") != std::string::npos);
}

}  // namespace elementwise_test
