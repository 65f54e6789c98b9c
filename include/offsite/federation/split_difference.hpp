#pragma once
#include <string>

#include "offsite/io/hostile_object.hpp"
#include "offsite/io/json_value.hpp"

namespace offsite::federation {

/// One sentence that names the first field in which `found` is not what `expected` says; empty if there is none.
/// Fields that `expected` leaves out may be anything; objects are compared field by field.
[[nodiscard]] inline std::string explain_split_difference(const Json& expected, const Json& found,
                                                          const std::string& place = {}) {
  for (const auto& [name, wanted] : expected.items()) {
    const auto field = place.empty() ? name : place + "." + name;
    const auto* has = found.find(name);
    if (has == nullptr)
      return "the split has no field " + offsite::detail::shown(field) + ", which should be " +
             offsite::detail::shown_json(wanted);
    if (wanted.is_object() && has->is_object()) {
      if (auto sentence = explain_split_difference(wanted, *has, field); !sentence.empty()) return sentence;
    } else if (!(wanted == *has)) {
      return offsite::detail::shown(field) + " of the split is " + offsite::detail::shown_json(*has) +
             ", but " + offsite::detail::shown_json(wanted) + " was expected";
    }
  }
  return {};
}

}  // namespace offsite::federation
