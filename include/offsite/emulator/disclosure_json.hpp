#pragma once
#include "offsite/core/error.hpp"
#include "offsite/emulator/disclosure.hpp"
#include "offsite/io/json_value.hpp"

namespace offsite {

/// The report as `disclosure.json` holds it.
[[nodiscard]] inline Json to_json(const DisclosureReport& r) {
  auto json = Json::object({{"blocks", r.blocks},
                            {"bottom", r.bottom},
                            {"emulator", r.emulator},
                            {"top", r.top},
                            {"parameters", r.parameters},
                            {"offer_parameters", r.offer_parameters},
                            {"verbatim_share", r.verbatim_share},
                            {"rebuildable", r.rebuildable},
                            {"bytes", r.bytes}});
  if (!r.adapters.empty()) json["adapters"] = r.adapters;
  if (r.emulator_score) json["emulator_score"] = *r.emulator_score;
  return json;
}

/// \throws ProtocolError if a field is missing or of the wrong type.
[[nodiscard]] inline DisclosureReport disclosure_from_json(const Json& json) {
  DisclosureReport r;
  try {
    json.at("blocks").get_to(r.blocks);
    json.at("bottom").get_to(r.bottom);
    json.at("emulator").get_to(r.emulator);
    json.at("top").get_to(r.top);
    if (json.contains("adapters")) json.at("adapters").get_to(r.adapters);
    json.at("parameters").get_to(r.parameters);
    json.at("offer_parameters").get_to(r.offer_parameters);
    json.at("verbatim_share").get_to(r.verbatim_share);
    json.at("rebuildable").get_to(r.rebuildable);
    json.at("bytes").get_to(r.bytes);
    if (json.contains("emulator_score")) r.emulator_score = json.at("emulator_score").get<double>();
  } catch (const ProtocolError&) {
    throw ProtocolError("the disclosure report lacks a field, or one is of the wrong type");
  }
  return r;
}

}  // namespace offsite
