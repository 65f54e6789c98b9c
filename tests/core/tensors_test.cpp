#include "offsite/core/tensors.hpp"

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <array>
#include <limits>
#include <vector>

#include "support/test.hpp"

namespace tensors_test {

using namespace offsite;

namespace {

std::span<const std::byte> bytes_of(const auto& values) { return std::as_bytes(std::span(values)); }

}  // namespace

TEST_CASE("Dtype: names and types go there and back") {
  for (std::size_t i = 0; i < detail::kDtypeFacts.size(); ++i) {
    const auto dtype = static_cast<Dtype>(i);
    CHECK(dtype_of(dtype_name(dtype)) == dtype);
    if (dtype == Dtype::kF6E2M3 || dtype == Dtype::kF6E3M2) {
      CHECK(support::message_of<ArgumentError>([&] { (void)scalar_type_of(dtype); }).find("F6_") !=
            std::string::npos);
      continue;
    }
    CHECK(dtype_of(scalar_type_of(dtype)) == dtype);
    CHECK(static_cast<std::int64_t>(c10::elementSize(scalar_type_of(dtype))) ==
          std::max<std::int64_t>(dtype_bits(dtype) / 8, 1));
  }
  CHECK(dtype_of("BF16") == Dtype::kBF16);
  CHECK(dtype_of("bf16") == std::nullopt);
  CHECK(dtype_of("") == std::nullopt);
  CHECK_THROWS_AS((void)dtype_of(at::ScalarType::QInt8), ArgumentError);
}

TEST_CASE("byte_count: overflow, negative sizes and broken bytes are none") {
  using Shape = std::vector<std::int64_t>;
  constexpr auto kBig = std::int64_t{1} << 40;
  CHECK(byte_count(Dtype::kF32, Shape{}) == 4u);
  CHECK(byte_count(Dtype::kF32, Shape{3, 0, 5}) == 0u);
  CHECK(byte_count(Dtype::kF4, Shape{3, 2}) == 3u);
  CHECK(byte_count(Dtype::kF4, Shape{3}) == std::nullopt);
  CHECK(byte_count(Dtype::kF6E2M3, Shape{4}) == 3u);
  CHECK(byte_count(Dtype::kF6E2M3, Shape{2}) == std::nullopt);
  CHECK(byte_count(Dtype::kU8, Shape{kBig, kBig}) == std::nullopt);
  CHECK(byte_count(Dtype::kU8, Shape{0, kBig, kBig}) == std::nullopt);
  CHECK(byte_count(Dtype::kF64, Shape{std::numeric_limits<std::int64_t>::max() / 8}) ==
        std::nullopt);  // in bits
  CHECK(byte_count(Dtype::kU8, Shape{-1, -1}) == std::nullopt);
}

TEST_CASE("tensor_over: aligned bytes are shared, and kept alive") {
  auto values = std::make_shared<std::array<float, 6>>(std::array<float, 6>{1, 2, 3, 4, 5, 6});
  std::weak_ptr<void> watch = values;
  const float* address = values->data();
  auto tensor = tensor_over({Dtype::kF32, {2, 3}, bytes_of(*values)}, values);
  values.reset();
  CHECK(tensor.const_data_ptr<float>() == address);
  CHECK(tensor[1][2].item<float>() == 6);
  CHECK_FALSE(watch.expired());
  auto part = tensor[1];
  tensor = at::Tensor();
  CHECK_FALSE(watch.expired());
  part = at::Tensor();
  CHECK(watch.expired());
}

TEST_CASE("tensor_over: bytes that lie askew are copied") {
  alignas(8) std::array<std::byte, 20> raw{};
  const std::array<float, 2> values{1.5f, -2.5f};
  std::memcpy(raw.data() + 5, values.data(), 8);
  const auto tensor = tensor_over({Dtype::kF32, {2}, std::span(raw).subspan(5, 8)}, nullptr);
  CHECK(tensor[0].item<float>() == 1.5f);
  CHECK(tensor[1].item<float>() == -2.5f);
  CHECK(static_cast<const void*>(tensor.const_data_ptr()) != raw.data() + 5);
  // bytes have no alignment: never copied
  CHECK(tensor_over({Dtype::kU8, {8}, std::span(raw).subspan(5, 8)}, nullptr).const_data_ptr() ==
        raw.data() + 5);
}

TEST_CASE("tensor_over: scalars, empty tensors and pairs") {
  const std::array<std::int64_t, 1> one{7};
  const auto scalar = tensor_over({Dtype::kI64, {}, bytes_of(one)}, nullptr);
  CHECK(scalar.dim() == 0);
  CHECK(scalar.item<std::int64_t>() == 7);
  const auto empty = tensor_over({Dtype::kF16, {3, 0}, {}}, nullptr);
  CHECK(empty.sizes() == at::IntArrayRef({3, 0}));
  const std::array<std::uint8_t, 6> packed{};
  const auto pairs = tensor_over({Dtype::kF4, {3, 4}, bytes_of(packed)}, nullptr);
  CHECK(pairs.sizes() == at::IntArrayRef({3, 2}));
  CHECK(view_of(pairs).shape == std::vector<std::int64_t>{3, 4});
  CHECK_THROWS_AS((void)tensor_over({Dtype::kF4, {4, 3}, bytes_of(packed)}, nullptr), ArgumentError);
}

TEST_CASE("tensor_over: refuses bytes that do not fit") {
  const std::array<std::uint8_t, 4> raw{0, 1, 2, 0};
  CHECK(support::message_of<ArgumentError>([&] {
          (void)tensor_over({Dtype::kF32, {2}, bytes_of(raw)}, nullptr);
        }) == "a tensor of type F32 has 4 bytes, but its shape [2] does not take as many");
  CHECK(support::message_of<ProtocolError>([&] {
          (void)tensor_over({Dtype::kBool, {4}, bytes_of(raw)}, nullptr);
        }) == "a BOOL tensor holds the byte 2, but a truth value is 0 or 1");
}

TEST_CASE("view_of: shares the tensor's bytes and refuses what is not dense") {
  const auto tensor = at::arange(6, at::kFloat).view({2, 3});
  const auto view = view_of(tensor);
  CHECK(view.dtype == Dtype::kF32);
  CHECK(view.shape == std::vector<std::int64_t>{2, 3});
  CHECK(view.numel() == 6);
  CHECK(static_cast<const void*>(view.bytes.data()) == tensor.const_data_ptr());
  CHECK(view.bytes.size() == 24);
  CHECK(view_of(at::zeros({0, 4})).bytes.empty());
  CHECK_THROWS_AS((void)view_of(tensor.t()), ArgumentError);
  CHECK_THROWS_AS((void)view_of(at::Tensor{}), ArgumentError);
}

}  // namespace tensors_test
