#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace offsite {

/// One decoded code point and the bytes it took; `bytes` is 0 where the text is no UTF-8 (or has ended).
struct CodePoint {
  std::uint32_t value = 0;
  std::size_t bytes = 0;
};

/// Decodes the first code point of `text`, strictly: overlong forms, surrogates and values past U+10FFFF are
/// refused.
[[nodiscard]] constexpr CodePoint first_code_point(std::string_view text) {
  if (text.empty()) return {};
  const auto byte = [&](std::size_t i) {
    return static_cast<std::uint32_t>(static_cast<unsigned char>(text[i]));
  };
  const std::uint32_t lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  const std::size_t bytes = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || text.size() < bytes) return {};
  std::uint32_t value = lead & (0x7fu >> bytes);
  for (std::size_t i = 1; i < bytes; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return {};
    value = value << 6 | (byte(i) & 0x3f);
  }
  const bool overlong = (bytes == 3 && value < 0x800) || (bytes == 4 && value < 0x10000);
  if (overlong || value > 0x10ffff || (0xd800 <= value && value <= 0xdfff)) return {};
  return {value, bytes};
}

/// Appends a code point (at most U+10FFFF, no surrogate) as UTF-8.
constexpr void append_utf8(std::string& out, std::uint32_t c) {
  const auto tail = [&](int shift) { out += static_cast<char>(0x80 | (c >> shift & 0x3f)); };
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xc0 | c >> 6);
    tail(0);
  } else if (c < 0x10000) {
    out += static_cast<char>(0xe0 | c >> 12);
    tail(6);
    tail(0);
  } else {
    out += static_cast<char>(0xf0 | c >> 18);
    tail(12);
    tail(6);
    tail(0);
  }
}

/// The byte at which `text` stops being UTF-8, or `npos` if all of it is.
[[nodiscard]] constexpr std::size_t find_invalid_utf8(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const auto point = first_code_point(text.substr(at));
    if (point.bytes == 0) return at;
    at += point.bytes;
  }
  return std::string_view::npos;
}

/// Code points of valid UTF-8: what Python's `len` counts.
[[nodiscard]] constexpr std::int64_t count_code_points(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; });
}

/// Whether Python's `str.isspace` holds for the code point, and so what `str.strip` removes.
[[nodiscard]] constexpr bool is_white_space(std::uint32_t c) {
  return (0x09 <= c && c <= 0x0d) || (0x1c <= c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (0x2000 <= c && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

/// `text` without leading white space: Python's `str.lstrip`.
[[nodiscard]] constexpr std::string_view strip_left(std::string_view text) {
  for (;;) {
    const auto point = first_code_point(text);
    if (point.bytes == 0 || !is_white_space(point.value)) return text;
    text.remove_prefix(point.bytes);
  }
}

/// `text` without trailing white space: Python's `str.rstrip`.
[[nodiscard]] constexpr std::string_view strip_right(std::string_view text) {
  while (!text.empty()) {
    std::size_t begin = text.size() - 1;
    while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xc0) == 0x80) --begin;
    if (!is_white_space(first_code_point(text.substr(begin)).value)) break;
    text.remove_suffix(text.size() - begin);
  }
  return text;
}

/// Columns a terminal gives a code point: 2 for East Asian wide ones and emoji, 0 for combining marks,
/// else 1.
[[nodiscard]] constexpr std::int64_t display_width(std::uint32_t c) {
  using Range = std::pair<std::uint32_t, std::uint32_t>;
  constexpr std::array kCombining{Range{0x300, 0x36f},   Range{0x483, 0x489},   Range{0x591, 0x5bd},
                                  Range{0x64b, 0x65f},   Range{0x200b, 0x200f}, Range{0x20d0, 0x20f0},
                                  Range{0xfe00, 0xfe0f}, Range{0xfe20, 0xfe2f}};
  constexpr std::array kWide{Range{0x1100, 0x115f},   Range{0x2e80, 0x303e},   Range{0x3041, 0xa4cf},
                             Range{0xa960, 0xa97c},   Range{0xac00, 0xd7a3},   Range{0xf900, 0xfaff},
                             Range{0xfe30, 0xfe6f},   Range{0xff00, 0xff60},   Range{0xffe0, 0xffe6},
                             Range{0x1f300, 0x1f64f}, Range{0x1f680, 0x1f6ff}, Range{0x1f900, 0x1faff},
                             Range{0x20000, 0x3fffd}};
  const auto holds = [c](const Range& range) { return range.first <= c && c <= range.second; };
  if (std::any_of(kCombining.begin(), kCombining.end(), holds)) return 0;
  return std::any_of(kWide.begin(), kWide.end(), holds) ? 2 : 1;
}

/// Columns a terminal gives `text`; a byte that is no UTF-8 counts as one.
[[nodiscard]] constexpr std::int64_t display_width(std::string_view text) {
  std::int64_t width = 0;
  while (!text.empty()) {
    const auto point = first_code_point(text);
    width += point.bytes == 0 ? 1 : display_width(point.value);
    text.remove_prefix(std::max<std::size_t>(point.bytes, 1));
  }
  return width;
}

/// The longest beginning of `text` that fits into `columns`; never cuts a code point.
[[nodiscard]] constexpr std::string_view fit_width(std::string_view text, std::int64_t columns) {
  std::size_t end = 0;
  while (end < text.size()) {
    const auto point = first_code_point(text.substr(end));
    columns -= point.bytes == 0 ? 1 : display_width(point.value);
    if (columns < 0) break;
    end += std::max<std::size_t>(point.bytes, 1);
  }
  return text.substr(0, end);
}

}  // namespace offsite
