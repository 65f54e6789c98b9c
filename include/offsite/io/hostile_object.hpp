#pragma once
#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/io/json_value.hpp"
#include "offsite/io/safetensors_header.hpp"

namespace offsite::detail {

/// A JSON value as messages show it: short, whatever it holds.
[[nodiscard]] inline std::string shown_json(const Json& value) {
  constexpr std::size_t kLongest = 60;
  auto text = value.dump(-1, Json::Text::kAscii);
  return text.size() > kLongest ? text.substr(0, kLongest) + "..." : text;
}

/// Reads the fields of a JSON object that someone else wrote; `what` says where it stands.
class HostileObject {
 public:
  HostileObject(const Json& json, std::string what) : json_(json), what_(std::move(what)) {
    require<ProtocolError>(json.is_object(), "{} is a JSON {}, but it must be an object", what_,
                           json.type_name());
  }

  /// Refuses other fields: whoever wrote one meant something by it.
  void only(std::initializer_list<std::string_view> known) const {
    for (const auto& [name, value] : json_.items())
      require<ProtocolError>(std::find(known.begin(), known.end(), name) != known.end(),
                             "{} holds the field {}, which this version does not know", what_, shown(name));
  }
  [[nodiscard]] bool has(const char* name) const { return json_.contains(name); }
  [[nodiscard]] const Json& at(const char* name) const {
    require<ProtocolError>(has(name), "{} lacks the field '{}'", what_, name);
    return json_.at(name);
  }
  [[nodiscard]] std::string text(const char* name) const {
    check(name, at(name).is_string(), "a text");
    return at(name).get<std::string>();
  }
  [[nodiscard]] bool truth(const char* name) const {
    check(name, at(name).is_boolean(), "true or false");
    return at(name).get<bool>();
  }
  [[nodiscard]] double number(const char* name) const {
    check(name, at(name).is_number(), "a number");
    return at(name).get<double>();
  }
  [[nodiscard]] std::int64_t integer(const char* name, std::int64_t least, std::int64_t most) const {
    const auto& value = at(name);
    const bool fits = value.holds<std::int64_t>() && least <= value.get<std::int64_t>() &&
                      value.get<std::int64_t>() <= most;
    if (!fits) check(name, false, formatted("an integer from {} to {}", least, most));
    return value.get<std::int64_t>();
  }
  [[nodiscard]] std::uint64_t natural(const char* name) const {
    check(name, at(name).holds<std::uint64_t>(), "a natural number");
    return at(name).get<std::uint64_t>();
  }
  [[nodiscard]] std::vector<std::int64_t> integers(const char* name) const {
    check(name, at(name).holds<std::vector<std::int64_t>>(), "a list of integers");
    return at(name).get<std::vector<std::int64_t>>();
  }
  /// 64 lower-case hexadecimal digits.
  [[nodiscard]] std::string sha256(const char* name) const {
    auto value = text(name);
    check(name, value.size() == 64 && value.find_first_not_of("0123456789abcdef") == value.npos,
          "a SHA-256 of 64 lower-case hexadecimal digits");
    return value;
  }
  void check(const char* name, bool fits, std::string_view wanted) const {
    if (!fits)
      throw ProtocolError(
          formatted("'{}' of {} is {}, but it must be {}", name, what_, shown_json(at(name)), wanted));
  }

 private:
  const Json& json_;
  std::string what_;
};

}  // namespace offsite::detail
