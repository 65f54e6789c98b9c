#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "offsite/federation/journal.hpp"
#include "offsite/federation/message_fields.hpp"
#include "offsite/federation/owner_state.hpp"

namespace offsite::federation {

/// A round for people: what came in, and what came of it.
struct RoundSummary {
  std::int64_t round = 0;
  std::int64_t chosen = 0;   ///< clients that were asked
  std::int64_t updates = 0;  ///< that count
  std::int64_t refused = 0;
  std::int64_t samples = 0;  ///< of the updates
  std::int64_t steps = 0;
  double training_loss = std::numeric_limits<double>::quiet_NaN();  ///< mean by samples, as clients tell it
  double loss = std::numeric_limits<double>::quiet_NaN();           ///< on held-out data, if it was scored
  double accuracy = std::numeric_limits<double>::quiet_NaN();  ///< 0..1, likewise, where there are choices
  bool decided = false;
  bool kept = false;
  std::string error;  ///< why it could not be aggregated or scored

  [[nodiscard]] std::string outcome() const { return !decided ? "open" : kept ? "kept" : "rolled back"; }
  [[nodiscard]] Json to_json() const {
    const auto number = [](double value) { return std::isfinite(value) ? Json(value) : Json(); };
    return Json::object({{"round", round},
                         {"clients", chosen},
                         {"updates", updates},
                         {"refused", refused},
                         {"samples", samples},
                         {"steps", steps},
                         {"training_loss", number(training_loss)},
                         {"loss", number(loss)},
                         {"accuracy", number(accuracy)},
                         {"outcome", outcome()},
                         {"error", error}});
  }
};

/// A client for people.
struct ClientSummary {
  std::int64_t samples = 0;  ///< as its last hello claimed
  std::int64_t updates = 0;
  std::int64_t refused = 0;
  std::string last_refusal, left;  ///< reasons

  [[nodiscard]] Json to_json(const std::string& name) const {
    return Json::object({{"client", name},
                         {"samples", samples},
                         {"updates", updates},
                         {"refused", refused},
                         {"last_refusal", last_refusal},
                         {"left", left}});
  }
};

/// What the records of an owner's journal tell people.
class RunSummary {
 public:
  std::string run;
  std::int64_t planned = 0;                                    ///< rounds
  double baseline = std::numeric_limits<double>::quiet_NaN();  ///< loss of the model at the start
  double baseline_accuracy =
      std::numeric_limits<double>::quiet_NaN();  ///< and its accuracy, where there are choices
  std::vector<RoundSummary> rounds{};
  std::map<std::string, ClientSummary> clients{};
  bool finished = false;
  std::string error{};  ///< why it ended early

  /// \throws ProtocolError if the record is not one of an owner's journal.
  void apply(const Record& record);

  /// "finished", "round 3 of 20", or why it ended.
  [[nodiscard]] std::string state() const {
    if (finished) return error.empty() ? "finished" : "ended early: " + error;
    return formatted("round {} of {}", rounds.size(), planned);
  }
  /// On held-out data, of the model as it is kept now.
  [[nodiscard]] double loss() const {
    for (auto round = rounds.rbegin(); round != rounds.rend(); ++round)
      if (round->kept) return round->loss;
    return baseline;
  }
  /// The same model's, 0..1; NaN where there are no choices.
  [[nodiscard]] double accuracy() const {
    for (auto round = rounds.rbegin(); round != rounds.rend(); ++round)
      if (round->kept) return round->accuracy;
    return baseline_accuracy;
  }
};

inline void RunSummary::apply(const Record& record) {
  const detail::Fields fields(record.fields, "the record '" + record.kind + "' of the owner's journal");
  const auto current = [&]() -> RoundSummary& {
    require<ProtocolError>(!rounds.empty() && fields.integer("round", 1, INT64_MAX) == rounds.back().round,
                           "the record '{}' is about a round that was not opened: the journal is damaged",
                           record.kind);
    return rounds.back();
  };
  const auto accuracy_of_record = [&] {
    const auto* found = record.fields.find("accuracy");
    return found != nullptr && found->is_number() ? fields.number("accuracy")
                                                  : std::numeric_limits<double>::quiet_NaN();
  };
  if (record.kind == "run") {
    run = fields.text("run");
    planned = fields.integer("rounds", 1, INT64_MAX);
  } else if (record.kind == "baseline") {
    baseline = fields.number("loss");
    baseline_accuracy = accuracy_of_record();
  } else if (record.kind == "client") {
    auto& client = clients[fields.text("client")];
    client.samples = fields.integer("samples", 0, INT64_MAX);
    client.left.clear();
  } else if (record.kind == "left") {
    clients[fields.text("client")].left = fields.text("reason");
  } else if (record.kind == "round") {
    rounds.push_back({});
    rounds.back().round = fields.integer("round", 1, INT64_MAX);
    rounds.back().chosen = std::ssize(detail::texts(fields, "chosen"));
  } else if (record.kind == "extended") {
    current().chosen = std::ssize(detail::texts(fields, "chosen"));
  } else if (record.kind == "update") {
    auto& round = current();
    const auto samples = fields.integer("samples", 1, INT64_MAX);
    const double before = round.samples > 0 ? round.training_loss * static_cast<double>(round.samples) : 0;
    round.samples += samples;
    round.steps += fields.integer("steps", 0, INT64_MAX);
    round.training_loss =
        (before + fields.number("loss") * static_cast<double>(samples)) / static_cast<double>(round.samples);
    ++round.updates;
    ++clients[fields.text("client")].updates;
  } else if (record.kind == "refused") {
    ++current().refused;
    auto& client = clients[fields.text("client")];
    ++client.refused;
    client.last_refusal = fields.text("reason");
  } else if (record.kind == "decided") {
    auto& round = current();
    round.decided = true;
    round.kept = fields.truth("kept");
    round.error = fields.text("error");
    // A loss that was not finite is null.
    if (round.error.empty() && fields.at("loss").is_number()) round.loss = fields.number("loss");
    round.accuracy = accuracy_of_record();
  } else if (record.kind == "finished") {
    finished = true;
    error = fields.text("error");
  }
}

}  // namespace offsite::federation
