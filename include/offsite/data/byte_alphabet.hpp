#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "offsite/core/utf8.hpp"

namespace offsite {

namespace detail {

/// Bytes that stand for themselves in a vocabulary file: the visible characters of Latin-1.
constexpr bool stands_for_itself(std::uint32_t byte) {
  return (0x21 <= byte && byte <= 0x7e) || (0xa1 <= byte && byte <= 0xac) || (0xae <= byte && byte <= 0xff);
}

/// Byte by character, for the characters below U+0144; -1 for those that stand for no byte.
inline constexpr std::array<std::int16_t, 0x144> kByteOfChar = [] {
  std::array<std::int16_t, 0x144> bytes{};
  bytes.fill(-1);
  std::size_t next = 0x100;  // the other bytes take the characters from U+0100 on, in ascending order
  for (std::uint32_t byte = 0; byte < 256; ++byte)
    bytes[stands_for_itself(byte) ? byte : next++] = static_cast<std::int16_t>(byte);
  return bytes;
}();

}  // namespace detail

/// The byte that a token such as "<0x0A>" stands for.
[[nodiscard]] inline std::optional<unsigned char> byte_of_token(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return {};
  int value = 0;
  for (const char c : token.substr(3, 2)) {
    const std::size_t digit = std::string_view("0123456789abcdefABCDEF").find(c);
    if (digit == std::string_view::npos) return {};
    value = value * 16 + static_cast<int>(digit < 16 ? digit : digit - 6);
  }
  return static_cast<unsigned char>(value);
}

/// The bytes that a token of a byte-level vocabulary stands for ("Ġthe" is " the"); nothing if one of its
/// characters is not in GPT-2's byte alphabet, as in added tokens such as "   ".
[[nodiscard]] inline std::optional<std::string> bytes_of_token(std::string_view token) {
  std::string bytes;
  bytes.reserve(token.size());
  while (!token.empty()) {
    const CodePoint point = first_code_point(token);
    if (point.bytes == 0 || point.value >= detail::kByteOfChar.size()) return {};
    const auto byte = detail::kByteOfChar[point.value];
    if (byte < 0) return {};
    bytes += static_cast<char>(byte);
    token.remove_prefix(point.bytes);
  }
  return bytes;
}

}  // namespace offsite
