#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "offsite/core/dtype.hpp"

namespace offsite {

/// Elements of a shape, the product of its sizes; none if a size is negative or the sizes other than 0
/// multiply to more than an int64 holds.
[[nodiscard]] constexpr std::optional<std::int64_t> element_count(std::span<const std::int64_t> shape) {
  std::int64_t product = 1;
  bool empty = false;
  for (const auto size : shape) {
    if (size < 0) return std::nullopt;
    if (size == 0)
      empty =
          true;  // not multiplied in: strides are products of the other sizes, so those must fit all the same
    else if (__builtin_mul_overflow(product, size, &product))
      return std::nullopt;
  }
  return empty ? 0 : product;
}

/// Bytes that elements of `dtype` in that shape take; none where `element_count` is none, where the size in
/// bits exceeds an int64, or where elements narrower than a byte do not fill whole bytes.
[[nodiscard]] constexpr std::optional<std::uint64_t> byte_count(Dtype dtype,
                                                                std::span<const std::int64_t> shape) {
  const auto elements = element_count(shape);
  std::int64_t bits = 0;
  if (!elements || __builtin_mul_overflow(*elements, dtype_bits(dtype), &bits) || bits % 8 != 0)
    return std::nullopt;
  return static_cast<std::uint64_t>(bits / 8);
}

/// A shape as messages show it, e.g. "[2, 3]".
[[nodiscard]] inline std::string shape_text(std::span<const std::int64_t> shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

/// A dense tensor in memory that someone else owns: row-major, little-endian, at any address.
struct TensorView {
  Dtype dtype = Dtype::kF32;
  std::vector<std::int64_t> shape;   ///< empty for a scalar
  std::span<const std::byte> bytes;  ///< `byte_count(dtype, shape)` of them

  /// Elements; 0 if the shape is none (see `element_count`).
  [[nodiscard]] std::int64_t numel() const { return element_count(shape).value_or(0); }
};

}  // namespace offsite
