#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace offsite {

/// Element types of the safetensors format.
///
/// Ordered as the format's reference implementation orders them: its writer puts tensors of later types
/// first, so that every tensor begins at a multiple of its element's size.
enum class Dtype : std::uint8_t {
  kBool,  ///< one byte, 0 or 1
  kF4,    ///< 4 bits, two elements a byte
  kF6E2M3,
  kF6E3M2,
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kF8E8M0,
  kF8E4M3FNUZ,
  kF8E5M2FNUZ,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kC64,  ///< two F32: real, imaginary
  kF64,
  kI64,
  kU64,
};

namespace detail {

struct DtypeFacts {
  std::string_view name;
  std::int64_t bits;
};

inline constexpr std::array<DtypeFacts, 22> kDtypeFacts{
    {{"BOOL", 8},    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6},     {"U8", 8},          {"I8", 8},
     {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},
     {"U16", 16},    {"F16", 16},    {"BF16", 16},   {"I32", 32},        {"U32", 32},        {"F32", 32},
     {"C64", 64},    {"F64", 64},    {"I64", 64},    {"U64", 64}}};

}  // namespace detail

/// The format's name of an element type, e.g. "BF16".
[[nodiscard]] constexpr std::string_view dtype_name(Dtype dtype) {
  return detail::kDtypeFacts[static_cast<std::size_t>(dtype)].name;
}

/// Bits an element takes: 4, 6, 8, 16, 32 or 64.
[[nodiscard]] constexpr std::int64_t dtype_bits(Dtype dtype) {
  return detail::kDtypeFacts[static_cast<std::size_t>(dtype)].bits;
}

/// The element type of that name; none if the format has no such type. Case counts.
[[nodiscard]] constexpr std::optional<Dtype> dtype_of(std::string_view name) {
  for (std::size_t i = 0; i < detail::kDtypeFacts.size(); ++i)
    if (detail::kDtypeFacts[i].name == name) return static_cast<Dtype>(i);
  return std::nullopt;
}

}  // namespace offsite
