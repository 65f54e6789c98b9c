#pragma once
#include <fmt/format.h>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>

namespace offsite {

/// A value on its way into a text: a number, a truth, a character or a text that outlives the call.
///
/// All texts of the library are put together from this one type. fmt would compile each list of argument
/// types anew, and the library's three hundred messages cost a quarter of its compile time.
class TextArgument {
 public:
  TextArgument(std::same_as<bool> auto value) : kind_(Kind::kText), text_(value ? "true" : "false") {}
  TextArgument(std::same_as<char> auto value)
      : kind_(Kind::kCharacter), whole_(static_cast<unsigned char>(value)) {}
  template <std::integral T>
  requires(!std::same_as<T, bool> && !std::same_as<T, char>) TextArgument(T value)
      : kind_(std::signed_integral<T> ? Kind::kInteger : Kind::kNatural),
        whole_(static_cast<std::uint64_t>(value)) {}
  TextArgument(std::floating_point auto value) : kind_(Kind::kReal), real_(static_cast<double>(value)) {}
  TextArgument(std::string_view value) : kind_(Kind::kText), text_(value) {}
  TextArgument(const std::string& value) : kind_(Kind::kText), text_(value) {}
  TextArgument(const char* value) : kind_(Kind::kText), text_(value) {}

  /// Appends the value as fmt writes it for the field `field`, e.g. "{:.1f}".
  void append_to(std::string& out, std::string_view field) const {
    switch (kind_) {
      case Kind::kText:
        if (field == "{}") {
          out += text_;
        } else {
          out += fmt::vformat(field, fmt::make_format_args(text_));
        }
        break;
      case Kind::kCharacter:
        out += static_cast<char>(whole_);
        break;
      case Kind::kInteger: {
        const auto value = static_cast<std::int64_t>(whole_);
        out += fmt::vformat(field, fmt::make_format_args(value));
        break;
      }
      case Kind::kNatural:
        out += fmt::vformat(field, fmt::make_format_args(whole_));
        break;
      case Kind::kReal:
        out += fmt::vformat(field, fmt::make_format_args(real_));
        break;
    }
  }

 private:
  enum class Kind : std::uint8_t { kText, kCharacter, kInteger, kNatural, kReal };
  Kind kind_;
  std::uint64_t whole_ = 0;
  double real_ = 0;
  std::string_view text_;
};

namespace detail {

/// The next replacement field of `text` from `begin` on; `npos` without one. "{{" and "}}" are none.
constexpr std::size_t find_field(std::string_view text, std::size_t begin) {
  for (std::size_t i = begin; i < text.size(); ++i) {
    if (text[i] != '{' && text[i] != '}') continue;
    if (i + 1 < text.size() && text[i + 1] == text[i]) {
      ++i;
    } else if (text[i] == '{') {
      return i;
    }
  }
  return std::string_view::npos;
}

constexpr std::size_t count_fields(std::string_view text) {
  std::size_t count = 0;
  for (auto i = find_field(text, 0); i != text.npos; i = find_field(text, text.find('}', i))) ++count;
  return count;
}

/// A text with exactly `kFields` replacement fields; another number does not compile.
template <std::size_t kFields>
class FieldText {
 public:
  consteval FieldText(const char* text) : text_(text) {
    if (count_fields(text) != kFields) throw "the number of {} and of arguments differ";
  }
  [[nodiscard]] std::string_view get() const { return text_; }

 private:
  std::string_view text_;
};

[[nodiscard]] inline std::string format_fields(std::string_view text,
                                               std::initializer_list<TextArgument> arguments) {
  std::string out;
  const auto plain = [&](std::string_view part) {
    for (std::size_t i = 0; i < part.size(); ++i) {
      out += part[i];
      if (part[i] == '{' || part[i] == '}') ++i;  // they stand doubled
    }
  };
  std::size_t begin = 0;
  for (const auto& argument : arguments) {
    const auto field = find_field(text, begin), end = text.find('}', field) + 1;
    plain(text.substr(begin, field - begin));
    argument.append_to(out, text.substr(field, end - field));
    begin = end;
  }
  plain(text.substr(begin));
  return out;
}

}  // namespace detail

/// `text` with its replacement fields filled, as fmt::format does; fields name no argument and nest none.
template <class... Args>
[[nodiscard]] std::string formatted(std::type_identity_t<detail::FieldText<sizeof...(Args)>> text,
                                 const Args&... args) {
  return detail::format_fields(text.get(), {TextArgument(args)...});
}

}  // namespace offsite
