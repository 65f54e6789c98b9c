#include "offsite/runs/report.hpp"

#include <fmt/format.h>

#include <cmath>

namespace program {

using namespace offsite;
using federation::Record;
using federation::RunSummary;

Table round_table(const RunSummary& run) {
  Table table(
      {"round", "clients", "updates", "refused", "samples", "training loss", "held-out loss", "outcome"});
  table.add({Cell("start"), Cell(std::nan(""), 0), Cell(std::nan(""), 0), Cell(std::nan(""), 0),
             Cell(std::nan(""), 0), Cell(std::nan(""), 4), Cell(run.baseline, 4), Cell("")});
  for (const auto& round : run.rounds)
    table.add({Cell(std::to_string(round.round)), Cell(round.chosen), Cell(round.updates),
               Cell(round.refused), Cell(round.samples), Cell(round.training_loss, 4), Cell(round.loss, 4),
               Cell(round.outcome() + (round.error.empty() ? "" : ": " + round.error))});
  return table;
}

void put_run(Json& json, const RunSummary& run) {
  const auto number = [](double value) { return std::isfinite(value) ? Json(value) : Json(); };
  json["run"] = run.run;
  json["state"] = run.state();
  json["planned_rounds"] = run.planned;
  json["start_loss"] = number(run.baseline);
  json["loss"] = number(run.loss());
  auto rounds = Json::array(), clients = Json::array();
  for (const auto& round : run.rounds) rounds.push_back(round.to_json());
  for (const auto& [name, client] : run.clients) clients.push_back(client.to_json(name));
  json["rounds"] = rounds;
  json["clients"] = clients;
}

RunReport::RunReport(const Session& session, const Path& log) : session_(session) {
  if (!log.empty()) writing([&] { log_ = std::make_shared<JsonLines>(log, JsonLines::Mode::kAppend); });
}

void RunReport::resume(const std::vector<Record>& records) {
  for (const auto& record : records) summary_.apply(record);
  if (!records.empty()) session_.say(fmt::format("the run {} goes on: {}", summary_.run, summary_.state()));
}

void RunReport::operator()(const Record& record) {
  summary_.apply(record);
  const auto write = [&](const Json& line) {
    if (log_) writing([&] { log_->write(line); });
  };
  if (record.kind == "baseline") {
    session_.say(fmt::format("held-out loss at the start: {:.4f}", summary_.baseline));
    write(Json::object({{"round", 0}, {"loss", summary_.baseline}}));
  } else if (record.kind == "client") {
    session_.say(record.fields.at("client").text() + " takes part");
  } else if (record.kind == "left") {
    session_.say(record.fields.at("client").text() + " leaves: " + record.fields.at("reason").text());
  } else if (record.kind == "refused") {
    session_.say(record.fields.at("client").text() +
                 "'s update is refused: " + record.fields.at("reason").text());
  } else if (record.kind == "round") {
    session_.say(fmt::format("round {} of {}: {} clients are asked", summary_.rounds.back().round,
                             summary_.planned, summary_.rounds.back().chosen));
  } else if (record.kind == "decided") {
    const auto& round = summary_.rounds.back();
    session_.say(
        fmt::format("round {}: {} updates of {} samples, training loss {:.4f}, held-out loss {:.4f}: {}{}",
                    round.round, round.updates, round.samples, round.training_loss, round.loss,
                    round.outcome(), round.error.empty() ? "" : ": " + round.error));
    write(round.to_json());
  }
}

}  // namespace program
