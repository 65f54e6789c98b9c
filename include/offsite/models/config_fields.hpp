#pragma once
#include <cstdint>
#include <string>

#include "offsite/core/error.hpp"
#include "offsite/io/json_value.hpp"

namespace offsite::detail {

/// A value of a file as messages show it: as JSON in ASCII, its end left out if it is long.
[[nodiscard]] inline std::string text_of(const Json& value) {
  auto text = value.dump(-1, Json::Text::kAscii);
  return text.size() > 60 ? text.substr(0, 57) + "..." : text;
}

/// Reads the fields of a JSON object, each once, into values of a C++ type; what is absent or null keeps its
/// default.
class ConfigFields {
 public:
  explicit ConfigFields(const Json& json) : json_(json) {
    require<ProtocolError>(json.is_object(),
                           "the model's configuration is a JSON {}, but it must be an object",
                           json.type_name());
  }
  [[nodiscard]] bool has(const char* name) const { return json_.contains(name) && !json_.at(name).is_null(); }

  void read(const char* name, std::int64_t& value) const {
    if (!has(name)) return;
    // 1e3 and 3.0 are refused: no writer of configurations makes them. So is what does not fit 64 bits.
    require_type(name, json_.at(name).holds<std::int64_t>(), "an integer");
    value = json_.at(name).get<std::int64_t>();
  }
  void read(const char* name, double& value) const {
    if (!has(name)) return;
    require_type(name, json_.at(name).is_number(), "a number");
    value = json_.at(name).get<double>();
  }
  void read(const char* name, bool& value) const {
    if (!has(name)) return;
    require_type(name, json_.at(name).is_boolean(), "true or false");
    value = json_.at(name).get<bool>();
  }
  void read(const char* name, std::string& value) const {
    if (!has(name)) return;
    require_type(name, json_.at(name).is_string(), "a string");
    value = json_.at(name).get<std::string>();
  }
  template <class T>
  void read_required(const char* name, T& value) const {
    require<ProtocolError>(has(name), "the model's configuration lacks {}", name);
    read(name, value);
  }

 private:
  void require_type(const char* name, bool fits, const char* wanted) const {
    if (fits) return;
    throw ProtocolError(formatted("{} of the model's configuration is {}, but it must be {}", name,
                                  text_of(json_.at(name)), wanted));
  }
  const Json& json_;
};

}  // namespace offsite::detail
