#pragma once
#include "offsite/io/json.hpp"

/// `value` after a JSON merge patch (RFC 7396): members that are null go, objects are patched, all else replaces.
inline offsite::Json merge_patched(const offsite::Json& value, const offsite::Json& patch) {
  if (!patch.is_object()) return patch;
  offsite::Json result = value.is_object() ? value : offsite::Json::object();
  for (const auto& [name, change] : patch.items()) {
    if (change.is_null())
      result.erase(name);
    else
      result[name] = merge_patched(result.contains(name) ? result.at(name) : offsite::Json(), change);
  }
  return result;
}
