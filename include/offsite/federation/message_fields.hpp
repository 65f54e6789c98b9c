#pragma once
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/federation/messages.hpp"
#include "offsite/io/hostile_object.hpp"
#include "offsite/io/json_value.hpp"

/// The headers of the messages: JSON objects, one field a member. Readers take nothing on trust, and refuse fields
/// they do not know.
namespace offsite::federation {

namespace detail {

using Fields = offsite::detail::HostileObject;

inline constexpr std::int64_t kMostRounds = 1'000'000;
inline constexpr std::int64_t kMostSamples = std::int64_t{1} << 48;

/// A text for people, as it may be shown: not long, and without control characters, which would steer the terminal.
[[nodiscard]] inline std::string sentence(const Fields& fields, const char* name) {
  auto text = fields.text(name);
  constexpr std::size_t kLongest = 1000;
  if (text.size() > kLongest) text = text.substr(0, kLongest);
  while (!text.empty() && !offsite::detail::is_utf8(text))
    text.pop_back();  // the cut may go through a character
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  return text;
}

/// A name that is compared and shown, never trusted: 1 to 64 visible ASCII characters.
[[nodiscard]] inline std::string run_name(const Fields& fields) {
  auto run = fields.text("run");
  const auto visible = [](char c) { return '!' <= c && c <= '~'; };
  fields.check("run", !run.empty() && run.size() <= 64 && std::all_of(run.begin(), run.end(), visible),
               "1 to 64 visible ASCII characters");
  return run;
}

[[nodiscard]] inline Json object(const Fields& fields, const char* name) {
  fields.check(name, fields.at(name).is_object(), "an object");
  return fields.at(name);
}

[[nodiscard]] inline Json blob_json(const Blob& blob) {
  return Json::object({{"sha256", blob.sha256}, {"bytes", blob.bytes}});
}

[[nodiscard]] inline Blob blob_from(const Json& json, const std::string& what) {
  const Fields fields(json, what);
  fields.only({"sha256", "bytes"});
  Blob blob{fields.sha256("sha256"), fields.natural("bytes")};
  fields.check("bytes", 0 < blob.bytes && blob.bytes <= std::uint64_t{INT64_MAX}, "positive");
  return blob;
}

}  // namespace detail

[[nodiscard]] inline Json write_fields(const Hello& m) {
  return Json::object({{"protocol", m.protocol},
                       {"version", m.version},
                       {"nonce", m.nonce},
                       {"split", m.split},
                       {"samples", m.samples}});
}
inline void read_fields(const detail::Fields& fields, Hello& m) {
  m.protocol = fields.integer("protocol", 0, INT64_MAX);
  m.nonce = fields.natural("nonce");
  if (m.protocol != kProtocolVersion) return;  // the rest may mean something else; the owner says so
  fields.only({"protocol", "version", "nonce", "split", "samples"});
  m.version = detail::sentence(fields, "version");
  m.split = detail::object(fields, "split");
  m.samples = fields.integer("samples", 0, detail::kMostSamples);
}

[[nodiscard]] inline Json write_fields(const Welcome& m) {
  std::vector<Json> offer;
  for (const auto& part : m.offer)
    offer.push_back(
        Json::object({{"name", part.name}, {"sha256", part.blob.sha256}, {"bytes", part.blob.bytes}}));
  return Json::object({{"nonce", m.nonce},
                       {"run", m.run},
                       {"split", m.split},
                       {"offer", std::move(offer)},
                       {"rounds", m.rounds}});
}
inline void read_fields(const detail::Fields& fields, Welcome& m) {
  fields.only({"nonce", "run", "split", "offer", "rounds"});
  m.nonce = fields.natural("nonce");
  m.run = detail::run_name(fields);
  m.split = detail::object(fields, "split");
  m.rounds = fields.integer("rounds", 0, detail::kMostRounds);
  fields.check("offer", fields.at("offer").is_array(), "a list");
  for (const auto& part : fields.at("offer")) {
    const detail::Fields of_part(part, "a part of the offer in a welcome");
    of_part.only({"name", "sha256", "bytes"});
    Blob blob{of_part.sha256("sha256"), of_part.natural("bytes")};
    of_part.check("bytes", 0 < blob.bytes && blob.bytes <= std::uint64_t{INT64_MAX}, "positive");
    m.offer.push_back({of_part.text("name"), std::move(blob)});
  }
}

[[nodiscard]] inline Json write_fields(const Refused& m) {
  return Json::object({{"about", static_cast<int>(m.about)},
                       {"nonce", m.nonce},
                       {"run", m.run},
                       {"round", m.round},
                       {"reason", m.reason}});
}
inline void read_fields(const detail::Fields& fields, Refused& m) {
  fields.only({"about", "nonce", "run", "round", "reason"});
  m.about = static_cast<Refused::About>(fields.integer("about", 0, 2));
  m.nonce = fields.natural("nonce");
  m.run = detail::run_name(fields);
  m.round = fields.integer("round", 0, detail::kMostRounds);
  m.reason = detail::sentence(fields, "reason");
}

[[nodiscard]] inline Json write_fields(const Status& m) {
  return Json::object({{"run", m.run}, {"doing", static_cast<int>(m.doing)}, {"round", m.round}});
}
inline void read_fields(const detail::Fields& fields, Status& m) {
  fields.only({"run", "doing", "round"});
  m.run = detail::run_name(fields);
  m.doing = static_cast<Doing>(fields.integer("doing", 0, static_cast<int>(Doing::kDone)));
  m.round = fields.integer("round", 0, detail::kMostRounds);
}

[[nodiscard]] inline Json write_fields(const Wait& m) {
  return Json::object({{"run", m.run}, {"over", m.over}, {"reason", m.reason}});
}
inline void read_fields(const detail::Fields& fields, Wait& m) {
  fields.only({"run", "over", "reason"});
  m.run = detail::run_name(fields);
  m.over = fields.integer("over", 0, detail::kMostRounds);
  m.reason = detail::sentence(fields, "reason");
}

[[nodiscard]] inline Json write_fields(const Round& m) {
  return Json::object({{"run", m.run},
                       {"round", m.round},
                       {"global", detail::blob_json(m.global)},
                       {"training", m.training}});
}
inline void read_fields(const detail::Fields& fields, Round& m) {
  fields.only({"run", "round", "global", "training"});
  m.run = detail::run_name(fields);
  m.round = fields.integer("round", 1, detail::kMostRounds);
  m.global = detail::blob_from(fields.at("global"), "'global' of a round");
  m.training = detail::object(fields, "training");
}

[[nodiscard]] inline Json write_fields(const Want& m) {
  return Json::object({{"sha256", m.sha256}, {"offset", m.offset}, {"bytes", m.bytes}});
}
inline void read_fields(const detail::Fields& fields, Want& m) {
  fields.only({"sha256", "offset", "bytes"});
  m.sha256 = fields.sha256("sha256");
  m.offset = fields.natural("offset");
  m.bytes = fields.natural("bytes");
  fields.check("bytes", 0 < m.bytes && m.bytes <= kMostChunk, "1 to 4194304");
}

[[nodiscard]] inline Json write_fields(const Chunk& m) {
  return Json::object({{"sha256", m.sha256}, {"offset", m.offset}});
}
inline void read_fields(const detail::Fields& fields, Chunk& m) {
  fields.only({"sha256", "offset"});
  m.sha256 = fields.sha256("sha256");
  m.offset = fields.natural("offset");
}

[[nodiscard]] inline Json write_fields(const UpdateReady& m) {
  return Json::object({{"run", m.run},
                       {"round", m.round},
                       {"update", detail::blob_json(m.update)},
                       {"samples", m.samples},
                       {"steps", m.steps},
                       {"loss", m.loss}});
}
inline void read_fields(const detail::Fields& fields, UpdateReady& m) {
  fields.only({"run", "round", "update", "samples", "steps", "loss"});
  m.run = detail::run_name(fields);
  m.round = fields.integer("round", 1, detail::kMostRounds);
  m.update = detail::blob_from(fields.at("update"), "'update' of an update");
  m.samples = fields.integer("samples", 0, detail::kMostSamples);
  m.steps = fields.integer("steps", 0, detail::kMostSamples);
  m.loss = fields.at("loss").is_null() ? 0 : fields.number("loss");
}

[[nodiscard]] inline Json write_fields(const Accepted& m) {
  return Json::object({{"run", m.run}, {"round", m.round}, {"sha256", m.sha256}});
}
inline void read_fields(const detail::Fields& fields, Accepted& m) {
  fields.only({"run", "round", "sha256"});
  m.run = detail::run_name(fields);
  m.round = fields.integer("round", 1, detail::kMostRounds);
  m.sha256 = fields.sha256("sha256");
}

[[nodiscard]] inline Json write_fields(const Goodbye& m) {
  return Json::object(
      {{"run", m.run}, {"global", detail::blob_json(m.global)}, {"rounds", m.rounds}, {"error", m.error}});
}
inline void read_fields(const detail::Fields& fields, Goodbye& m) {
  fields.only({"run", "global", "rounds", "error"});
  m.run = detail::run_name(fields);
  m.global = detail::blob_from(fields.at("global"), "'global' of a goodbye");
  m.rounds = fields.integer("rounds", 0, detail::kMostRounds);
  m.error = detail::sentence(fields, "error");
}

[[nodiscard]] inline Json write_fields(const Leave& m) {
  return Json::object({{"run", m.run}, {"reason", m.reason}});
}
inline void read_fields(const detail::Fields& fields, Leave& m) {
  fields.only({"run", "reason"});
  m.run = detail::run_name(fields);
  m.reason = detail::sentence(fields, "reason");
}

}  // namespace offsite::federation
