#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/federation/journal.hpp"
#include "offsite/federation/message_fields.hpp"
#include "offsite/federation/owner_options.hpp"
#include "offsite/io/hostile_object.hpp"

namespace offsite::federation {

/// How far the current round is.
enum class RoundPhase {
  kIdle,        ///< none is open: the last one is decided
  kOpen,        ///< clients train, updates come in
  kClosed,      ///< its updates are fixed, to be aggregated
  kAggregated,  ///< there is a candidate, to be scored
};

/// An update on the owner's disk that was checked and acknowledged.
struct AcceptedUpdate {
  Blob blob;
  std::int64_t samples = 0;
  double norm = 0;

  bool operator==(const AcceptedUpdate&) const = default;
};

/// What an owner must remember: the sum of its records, the same whether they have just been written or are read again.
struct OwnerState {
  std::string run;                              ///< empty before the first record
  Blob global;                                  ///< the adapters of the last kept round
  std::string policy_state;                     ///< SHA-256; empty if there is none
  std::optional<double> loss;                   ///< of `global` on held-out data, once scored
  std::map<std::string, std::int64_t> clients;  ///< samples of each that was admitted, by name
  std::map<std::string, std::string> left;      ///< reasons of those that left for good
  std::int64_t round = 0;                       ///< the last that was opened
  RoundPhase phase = RoundPhase::kIdle;
  std::vector<std::string> chosen;                ///< of the round
  std::int64_t extensions = 0;                    ///< of the round's deadline
  std::map<std::string, AcceptedUpdate> updates;  ///< of the round, by client
  std::map<std::string, std::string> refused;     ///< of the round: why, by client
  Blob candidate;
  std::string candidate_state;
  std::int64_t aggregated = 0;  ///< rounds that were
  std::vector<double> norms;    ///< of the last updates accepted, at most kNorms
  std::map<std::pair<std::string, std::int64_t>, std::string>
      accepted;                      ///< hash of every update ever accepted
  std::vector<std::string> garbage;  ///< blobs the last decision made useless
  bool finished = false;
  std::string error;  ///< why it ended early

  static constexpr std::size_t kNorms = 64;

  bool operator==(const OwnerState&) const = default;

  /// \throws ProtocolError if the record does not fit what was recorded before: the journal is damaged.
  void apply(const Record& record);

 private:
  void apply_update(const detail::Fields& fields);
  void decide(const detail::Fields& fields);
};

namespace detail {

[[nodiscard]] inline Json number_or_null(const std::optional<double>& number) {
  return number ? Json(*number) : Json();
}
[[nodiscard]] inline std::vector<std::string> texts(const Fields& fields, const char* name) {
  fields.check(name, fields.at(name).holds<std::vector<std::string>>(), "a list of texts");
  return fields.at(name).get<std::vector<std::string>>();
}

}  // namespace detail

inline void OwnerState::apply_update(const detail::Fields& fields) {
  const auto name = fields.text("client");
  AcceptedUpdate update{detail::blob_from(fields.at("update"), "'update' of a record"),
                        fields.integer("samples", 1, INT64_MAX), fields.number("norm")};
  norms.push_back(update.norm);
  if (norms.size() > kNorms) norms.erase(norms.begin());
  accepted[{name, round}] = update.blob.sha256;
  updates[name] = std::move(update);
}

inline void OwnerState::decide(const detail::Fields& fields) {
  garbage.clear();
  for (const auto& [name, update] : updates) garbage.push_back(update.blob.sha256);
  if (fields.truth("kept")) {
    garbage.push_back(std::exchange(global, candidate).sha256);
    garbage.push_back(std::exchange(policy_state, candidate_state));
    loss = fields.number("loss");
  } else {
    garbage.push_back(candidate.sha256);
    garbage.push_back(candidate_state);
  }
  // Equal bytes are one blob: what is still needed may have been something else before as well.
  std::erase_if(garbage, [&](const auto& hash) {
    return hash.empty() || hash == global.sha256 || hash == policy_state;
  });
  updates.clear();
  refused.clear();
  chosen.clear();
  candidate = {};
  candidate_state.clear();
  phase = RoundPhase::kIdle;
}

inline void OwnerState::apply(const Record& record) {
  const auto what = "the record '" + record.kind + "' of the owner's journal";
  const detail::Fields fields(record.fields, what);
  const auto in_phase = [&](RoundPhase wanted, bool next_round) {
    const auto expected = next_round ? round + 1 : round;
    require<ProtocolError>(
        phase == wanted && !finished && fields.integer("round", 1, INT64_MAX) == expected,
        "{} does not fit those before it: it is about another round than {}, or that one is "
        "further: the journal is damaged",
        what, expected);
  };
  require<ProtocolError>((record.kind == "run") == run.empty(),
                         "{} is out of its place: the journal is damaged", what);
  if (record.kind == "run") {
    run = fields.text("run");
    global = detail::blob_from(fields.at("global"), "'global' of " + what);
  } else if (record.kind == "baseline") {
    loss = fields.number("loss");
  } else if (record.kind == "client") {
    clients[fields.text("client")] = fields.integer("samples", 0, INT64_MAX);
    left.erase(fields.text("client"));
  } else if (record.kind == "left") {
    left[fields.text("client")] = fields.text("reason");
  } else if (record.kind == "round") {
    in_phase(RoundPhase::kIdle, true);
    ++round;
    phase = RoundPhase::kOpen;
    chosen = detail::texts(fields, "chosen");
    extensions = 0;
  } else if (record.kind == "extended") {
    in_phase(RoundPhase::kOpen, false);
    ++extensions;
    chosen = detail::texts(fields, "chosen");
  } else if (record.kind == "update") {
    in_phase(RoundPhase::kOpen, false);
    require<ProtocolError>(!updates.contains(fields.text("client")), "{} is a client's second of one round",
                           what);
    apply_update(fields);
  } else if (record.kind == "refused") {
    in_phase(RoundPhase::kOpen, false);
    refused[fields.text("client")] = fields.text("reason");
  } else if (record.kind == "closed") {
    in_phase(RoundPhase::kOpen, false);
    phase = RoundPhase::kClosed;
  } else if (record.kind == "aggregated") {
    in_phase(RoundPhase::kClosed, false);
    candidate = detail::blob_from(fields.at("global"), "'global' of " + what);
    candidate_state = fields.text("policy_state");
    phase = RoundPhase::kAggregated;
    ++aggregated;
  } else if (record.kind == "decided") {
    in_phase(
        phase == RoundPhase::kClosed && !fields.truth("kept") ? RoundPhase::kClosed : RoundPhase::kAggregated,
        false);
    decide(fields);
  } else if (record.kind == "finished") {
    finished = true;
    error = fields.text("error");
  } else {
    throw ProtocolError(what + " is of no known kind: it was written by another version");
  }
}

}  // namespace offsite::federation
