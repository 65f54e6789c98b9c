#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>

#include "offsite/core/dtype.hpp"
#include "offsite/core/error.hpp"
#include "offsite/core/tensor_view.hpp"

namespace offsite {

namespace detail {

inline constexpr std::array<std::pair<Dtype, at::ScalarType>, 20> kScalarTypes{{
    {Dtype::kBool, at::ScalarType::Bool},
    {Dtype::kF4, at::ScalarType::Float4_e2m1fn_x2},  // one LibTorch element is a byte that holds two
    {Dtype::kU8, at::ScalarType::Byte},
    {Dtype::kI8, at::ScalarType::Char},
    {Dtype::kF8E5M2, at::ScalarType::Float8_e5m2},
    {Dtype::kF8E4M3, at::ScalarType::Float8_e4m3fn},
    {Dtype::kF8E8M0, at::ScalarType::Float8_e8m0fnu},
    {Dtype::kF8E4M3FNUZ, at::ScalarType::Float8_e4m3fnuz},
    {Dtype::kF8E5M2FNUZ, at::ScalarType::Float8_e5m2fnuz},
    {Dtype::kI16, at::ScalarType::Short},
    {Dtype::kU16, at::ScalarType::UInt16},
    {Dtype::kF16, at::ScalarType::Half},
    {Dtype::kBF16, at::ScalarType::BFloat16},
    {Dtype::kI32, at::ScalarType::Int},
    {Dtype::kU32, at::ScalarType::UInt32},
    {Dtype::kF32, at::ScalarType::Float},
    {Dtype::kC64, at::ScalarType::ComplexFloat},
    {Dtype::kF64, at::ScalarType::Double},
    {Dtype::kI64, at::ScalarType::Long},
    {Dtype::kU64, at::ScalarType::UInt64},
}};

}  // namespace detail

/// LibTorch's type for an element type of a file.
/// \throws ArgumentError for the 6-bit types, which LibTorch does not have.
[[nodiscard]] inline at::ScalarType scalar_type_of(Dtype dtype) {
  for (const auto& [ours, theirs] : detail::kScalarTypes)
    if (ours == dtype) return theirs;
  throw ArgumentError(formatted("a tensor is of type {}, for which LibTorch has no type", dtype_name(dtype)));
}

/// The file's type for a type of LibTorch.
/// \throws ArgumentError for those that the safetensors format does not have, e.g. quantised ones.
[[nodiscard]] inline Dtype dtype_of(at::ScalarType type) {
  for (const auto& [ours, theirs] : detail::kScalarTypes)
    if (theirs == type) return ours;
  throw ArgumentError(
      formatted("a tensor is of type {}, for which the safetensors format has no type", c10::toString(type)));
}

/// A tensor over the bytes of `view`, which `keeps_alive` keeps valid for as long as the tensor lives.
///
/// Nothing is copied if the bytes lie at a multiple of the element's size; a copy is made otherwise. Writing
/// into the tensor writes into those bytes. F4 becomes LibTorch's packed type, whose last dimension counts
/// pairs. \throws ArgumentError if LibTorch lacks the type, or the bytes are not as many as type and shape
/// say. \throws ProtocolError if a BOOL is neither 0 nor 1: reading such a byte as a C++ bool is undefined.
[[nodiscard]] inline at::Tensor tensor_over(const TensorView& view, std::shared_ptr<const void> keeps_alive) {
  const auto expected = byte_count(view.dtype, view.shape);
  require(expected == view.bytes.size(),
          "a tensor of type {} has {} bytes, but its shape {} does not take as many", dtype_name(view.dtype),
          view.bytes.size(), shape_text(view.shape));
  auto shape = view.shape;
  if (view.dtype == Dtype::kF4) {
    require(!shape.empty() && shape.back() % 2 == 0,
            "the last dimension of an F4 tensor of shape {} is odd, but LibTorch holds pairs",
            shape_text(view.shape));
    shape.back() /= 2;
  }
  if (view.dtype == Dtype::kBool)
    for (const auto byte : view.bytes)
      require<ProtocolError>(std::to_integer<int>(byte) <= 1,
                             "a BOOL tensor holds the byte {}, but a truth value is 0 or 1",
                             std::to_integer<int>(byte));
  const auto options = at::TensorOptions().dtype(scalar_type_of(view.dtype));
  const auto alignment = static_cast<std::uintptr_t>(std::max<std::int64_t>(dtype_bits(view.dtype) / 8, 1));
  if (view.bytes.empty() || reinterpret_cast<std::uintptr_t>(view.bytes.data()) % alignment != 0) {
    auto copy = at::empty(shape, options);
    if (!view.bytes.empty()) std::memcpy(copy.mutable_data_ptr(), view.bytes.data(), view.bytes.size());
    return copy;
  }
  auto* data = const_cast<std::byte*>(view.bytes.data());  // LibTorch knows no tensors of constants
  return at::from_blob(
      data, shape, [keeps_alive = std::move(keeps_alive)](void*) {}, options);
}

/// The bytes of a tensor, without a copy: valid as long as the tensor's storage.
/// \throws ArgumentError unless the tensor lies on the CPU, dense and row-major, in a type the format has.
[[nodiscard]] inline TensorView view_of(const at::Tensor& contiguous_cpu) {
  const auto& tensor = contiguous_cpu;
  require(tensor.defined(), "an undefined tensor has no bytes to view");
  require(tensor.device().is_cpu(), "only a tensor on the CPU can be viewed, but this one is on {}",
          tensor.device().str());
  require(tensor.layout() == at::kStrided && tensor.is_contiguous() && !tensor.is_conj() && !tensor.is_neg(),
          "only a contiguous tensor can be viewed, but this one of shape {} is not: call contiguous() first",
          shape_text(tensor.sizes()));
  TensorView view{.dtype = dtype_of(tensor.scalar_type()), .shape = tensor.sizes().vec(), .bytes = {}};
  if (view.dtype == Dtype::kF4) {
    require(!view.shape.empty(),
            "a scalar of LibTorch's packed F4 type has no dimension in which to count its two elements");
    view.shape.back() *= 2;
  }
  view.bytes = {static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()};
  return view;
}

}  // namespace offsite
