#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "offsite/core/dtype.hpp"
#include "offsite/core/error.hpp"
#include "offsite/core/tensor_view.hpp"

namespace offsite::detail {

/// Whether `text` is well-formed UTF-8 (Unicode 15, table 3-7: no surrogates, no overlong forms).
[[nodiscard]] inline bool is_utf8(std::string_view text) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  for (std::size_t i = 0; i < text.size();) {
    const unsigned first = byte(i++);
    if (first < 0x80) continue;
    if (first < 0xc2 || first > 0xf4) return false;
    const unsigned lowest = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    const unsigned highest = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    if (byte(i) < lowest || byte(i) > highest) return false;
    for (const auto end = i + (first < 0xe0 ? 1 : first < 0xf0 ? 2 : 3); i < end; ++i)
      if ((byte(i) & 0xc0) != 0x80) return false;
  }
  return true;
}

/// A name as messages show it: quoted, cut if a hostile file made it long, and without control characters, which
/// would end the message or steer the terminal.
[[nodiscard]] inline std::string shown(std::string_view name) {
  constexpr std::size_t kLongest = 200;
  std::string text(name.substr(0, kLongest));
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  return formatted("'{}{}'", text, name.size() > kLongest ? "..." : "");
}

/// What a safetensors header says of one tensor.
struct HeaderEntry {
  Dtype dtype = Dtype::kU8;
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0;  ///< first byte, counted from the end of the header
  std::uint64_t end = 0;    ///< one past the last byte
};

/// A safetensors header; kept in nodes, so that no single allocation is larger than the text it came from.
struct SafetensorsHeader {
  std::map<std::string, HeaderEntry, std::less<>> tensors;
  std::map<std::string, std::string> metadata;
};

/// Parses the JSON of a safetensors header, which is an object of objects of three known fields.
///
/// A parser of our own: a general one would keep the last of two equal keys, and take several times the
/// header's size.
class HeaderParser {
 public:
  HeaderParser(std::string_view text, std::string file) : text_(text), file_(std::move(file)) {}

  [[nodiscard]] SafetensorsHeader parse() {
    check(text_.starts_with('{'), "the header does not begin with '{{'");
    check(is_utf8(text_), "the header is not UTF-8");
    SafetensorsHeader header;
    bool metadata_seen = false;
    members([&](std::string name) {
      if (name == "__metadata__") {
        check(!std::exchange(metadata_seen, true), "the key '__metadata__' occurs twice");
        members([&](std::string key) {
          check(!header.metadata.contains(key), "the metadata key {} occurs twice", shown(key));
          auto value = string();
          header.metadata.emplace(std::move(key), std::move(value));
        });
      } else {
        check(!header.tensors.contains(name), "the tensor {} occurs twice", shown(name));
        auto tensor = entry(name);
        header.tensors.emplace(std::move(name), std::move(tensor));
      }
    });
    skip_blanks();
    check(at_ == text_.size(), "something follows the end of the header's JSON");
    return header;
  }

 private:
  /// LibTorch and numpy go no further; a shape without bound could take more memory than its file.
  static constexpr std::size_t kMostDimensions = 64;

  template <class... Args>
  void check(bool condition, std::type_identity_t<FieldText<sizeof...(Args)>> text,
             const Args&... args) const {
    if (condition) return;
    throw ProtocolError(formatted("{} is not a valid safetensors file: {} (byte {} of the header)", file_,
                                  format_fields(text.get(), {TextArgument(args)...}), at_));
  }

  HeaderEntry entry(const std::string& name) {
    HeaderEntry result;
    bool dtype = false, shape = false, offsets = false;
    members([&](const std::string& field) {
      if (field == "dtype" && !std::exchange(dtype, true)) {
        const auto value = string();
        const auto known = dtype_of(value);
        check(known.has_value(), "tensor {} has the unknown dtype {}", shown(name), shown(value));
        result.dtype = *known;
      } else if (field == "shape" && !std::exchange(shape, true)) {
        numbers([&](std::uint64_t size) {
          check(size <= std::uint64_t{INT64_MAX}, "tensor {} has a dimension of {}", shown(name), size);
          check(result.shape.size() < kMostDimensions, "tensor {} has more than {} dimensions", shown(name),
                kMostDimensions);
          result.shape.push_back(static_cast<std::int64_t>(size));
        });
      } else if (field == "data_offsets" && !std::exchange(offsets, true)) {
        int count = 0;
        numbers([&](std::uint64_t offset) {
          check(count < 2, "tensor {} has more than two data_offsets", shown(name));
          (count++ == 0 ? result.begin : result.end) = offset;
        });
        check(count == 2, "tensor {} has {} data_offsets instead of two", shown(name), count);
      } else {
        check(false, "tensor {} has an unknown or second field {}", shown(name), shown(field));
      }
    });
    check(dtype && shape && offsets, "tensor {} lacks its {}", shown(name),
          !dtype   ? "dtype"
          : !shape ? "shape"
                   : "data_offsets");
    return result;
  }

  /// An object: calls `member(key)` before each value, which it must read.
  template <class Member>
  void members(Member member) {
    expect('{', "an object");
    if (accept('}')) return;
    do {
      skip_blanks();
      auto key = string();
      expect(':', "':'");
      member(std::move(key));
    } while (accept(','));
    expect('}', "',' or '}'");
  }

  /// An array of natural numbers: calls `take` with each.
  template <class Take>
  void numbers(Take take) {
    expect('[', "an array");
    if (accept(']')) return;
    do {
      take(natural());
    } while (accept(','));
    expect(']', "',' or ']'");
  }

  std::uint64_t natural() {
    skip_blanks();
    const auto begin = at_;
    std::uint64_t value = 0;
    bool fits = true;
    for (; at_ < text_.size() && '0' <= text_[at_] && text_[at_] <= '9'; ++at_)
      fits = fits && !__builtin_mul_overflow(value, std::uint64_t{10}, &value) &&
             !__builtin_add_overflow(value, static_cast<std::uint64_t>(text_[at_] - '0'), &value);
    check(at_ > begin, "a natural number was expected");
    check(fits && (text_[begin] != '0' || at_ == begin + 1), "the number {} is out of range or begins with 0",
          text_.substr(begin, std::min<std::size_t>(at_ - begin, 40)));
    return value;
  }

  std::string string() {
    expect('"', "a string");
    auto close = at_;
    while (close < text_.size() && text_[close] != '"') close += text_[close] == '\\' ? 2 : 1;
    check(close < text_.size(), "a string does not end");
    std::string value;
    value.reserve(close - at_);  // an escape is never shorter than what it stands for
    while (at_ < close) {
      const char c = text_[at_++];
      check(static_cast<unsigned char>(c) >= 0x20, "a string holds a control character");
      if (c == '\\')
        append_escaped(value);
      else
        value += c;
    }
    ++at_;
    return value;
  }

  void append_escaped(std::string& value) {
    constexpr std::string_view kLetters = "\"\\/bfnrt", kMeanings = "\"\\/\b\f\n\r\t";
    const char letter = text_[at_++];
    if (const auto i = kLetters.find(letter); i != kLetters.npos) {
      value += kMeanings[i];
      return;
    }
    check(letter == 'u', "a string holds an unknown escape");
    unsigned code = four_digits();
    if (0xd800 <= code && code < 0xdc00) {  // the first half of a pair of UTF-16 units
      check(text_.substr(at_, 2) == "\\u", "a string holds half a surrogate pair");
      at_ += 2;
      const unsigned low = four_digits();
      check(0xdc00 <= low && low < 0xe000, "a string holds half a surrogate pair");
      code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    } else {
      check(code < 0xdc00 || code >= 0xe000, "a string holds half a surrogate pair");
    }
    const auto append = [&](unsigned byte) { value += static_cast<char>(byte); };
    if (code < 0x80) return append(code);
    if (code < 0x800) {
      append(0xc0 | code >> 6);
    } else {
      if (code < 0x10000) {
        append(0xe0 | code >> 12);
      } else {
        append(0xf0 | code >> 18);
        append(0x80 | (code >> 12 & 0x3f));
      }
      append(0x80 | (code >> 6 & 0x3f));
    }
    append(0x80 | (code & 0x3f));
  }

  unsigned four_digits() {
    unsigned value = 0;
    for (int i = 0; i < 4; ++i) {
      const char c = at_ < text_.size() ? text_[at_++] : '\0';
      const auto digit =
          std::string_view("0123456789abcdef").find(static_cast<char>('A' <= c && c <= 'F' ? c + 32 : c));
      check(digit != std::string_view::npos, "a string holds a broken \\u escape");
      value = value << 4 | static_cast<unsigned>(digit);
    }
    return value;
  }

  void skip_blanks() {
    while (at_ < text_.size() && std::string_view(" \t\n\r").find(text_[at_]) != std::string_view::npos)
      ++at_;
  }
  bool accept(char c) {
    skip_blanks();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void expect(char c, std::string_view what) { check(accept(c), "{} was expected", what); }

  std::string_view text_;
  std::string file_;
  std::size_t at_ = 0;
};

/// Checks that the tensors, in the order of their offsets, fill `data_size` bytes without overlap or hole.
/// \throws ProtocolError naming `file` and the first tensor that does not fit.
inline void check_layout(const SafetensorsHeader& header, std::uint64_t data_size, std::string_view file) {
  std::vector<decltype(header.tensors)::const_pointer> order;
  order.reserve(header.tensors.size());
  for (const auto& tensor : header.tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](auto* a, auto* b) {
    return std::pair(a->second.begin, a->second.end) < std::pair(b->second.begin, b->second.end);
  });
  std::uint64_t reached = 0;
  for (const auto* tensor : order) {
    const auto& [dtype, shape, begin, end] = tensor->second;
    const auto expect = [&](bool condition, std::string_view problem) {
      require<ProtocolError>(
          condition,
          "{} is not a valid safetensors file: tensor {} of type {} and shape {} at bytes {} to {} {}", file,
          shown(tensor->first), dtype_name(tensor->second.dtype), shape_text(tensor->second.shape),
          tensor->second.begin, tensor->second.end, problem);
    };
    const auto bytes = byte_count(dtype, shape);
    expect(begin <= end, "ends before it begins");
    expect(end <= data_size, "ends beyond the end of the file");
    expect(bytes.has_value(), "has a shape that is too large or does not fill whole bytes");
    expect(*bytes == end - begin, "has a shape that takes another number of bytes");
    expect(begin >= reached, "overlaps the one before it");
    expect(begin == reached, "leaves a hole before it");
    reached = end;
  }
  require<ProtocolError>(
      reached == data_size,
      "{} is not a valid safetensors file: its tensors take {} bytes, but {} follow the header", file,
      reached, data_size);
}

}  // namespace offsite::detail
