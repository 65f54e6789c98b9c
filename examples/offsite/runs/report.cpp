#include "offsite/runs/report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

namespace program {

using namespace offsite;
using federation::Record;
using federation::RunSummary;

namespace {

Json number_or_null(double value) { return std::isfinite(value) ? Json(value) : Json(); }
/// ", accuracy 61.5 %", where there is one.
std::string accuracy_text(double accuracy) {
  return std::isfinite(accuracy) ? fmt::format(", accuracy {:.1f} %", 100 * accuracy) : std::string();
}

}  // namespace

Table round_table(const RunSummary& run) {
  const bool has_choices = std::isfinite(run.baseline_accuracy);
  std::vector<std::string> head{"round",   "clients",       "updates",      "refused",
                                "samples", "training loss", "held-out loss"};
  if (has_choices) head.push_back("accuracy %");
  head.push_back("outcome");
  Table table(head);
  const auto add = [&](std::vector<Cell> cells, double accuracy, const std::string& outcome) {
    if (has_choices) cells.push_back(Cell(100 * accuracy, 1));
    cells.push_back(Cell(outcome));
    table.add(std::move(cells));
  };
  add({Cell("start"), Cell(std::nan(""), 0), Cell(std::nan(""), 0), Cell(std::nan(""), 0),
       Cell(std::nan(""), 0), Cell(std::nan(""), 4), Cell(run.baseline, 4)},
      run.baseline_accuracy, "");
  for (const auto& round : run.rounds)
    add({Cell(std::to_string(round.round)), Cell(round.chosen), Cell(round.updates), Cell(round.refused),
         Cell(round.samples), Cell(round.training_loss, 4), Cell(round.loss, 4)},
        round.accuracy, round.outcome() + (round.error.empty() ? "" : ": " + round.error));
  return table;
}

void put_run(Json& json, const RunSummary& run) {
  const auto number = number_or_null;
  json["run"] = run.run;
  json["state"] = run.state();
  json["planned_rounds"] = run.planned;
  json["start_loss"] = number(run.baseline);
  json["loss"] = number(run.loss());
  json["start_accuracy"] = number(run.baseline_accuracy);
  json["accuracy"] = number(run.accuracy());
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
    session_.say(fmt::format("held-out loss at the start: {:.4f}{}", summary_.baseline,
                             accuracy_text(summary_.baseline_accuracy)));
    write(Json::object({{"round", 0},
                        {"loss", summary_.baseline},
                        {"accuracy", number_or_null(summary_.baseline_accuracy)}}));
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
    session_.say(fmt::format(
        "round {}: {} updates of {} samples, training loss {:.4f}, held-out loss {:.4f}{}: {}{}", round.round,
        round.updates, round.samples, round.training_loss, round.loss, accuracy_text(round.accuracy),
        round.outcome(), round.error.empty() ? "" : ": " + round.error));
    write(round.to_json());
  }
}

void RunReport::received(const std::string& client, const federation::Blob& update, std::uint64_t bytes) {
  constexpr double kSeconds = 10;
  const auto now = std::chrono::steady_clock::now();
  const auto since = [&](auto then) { return std::chrono::duration<double>(now - then).count(); };
  auto& upload = uploads_[client];
  if (upload.sha256 != update.sha256) upload = {update.sha256, now, now, bytes};
  if (since(upload.told) < kSeconds || bytes == update.bytes) return;
  upload.told = now;
  const double rate = static_cast<double>(bytes - std::min(bytes, upload.begun_at)) / since(upload.begun);
  const auto left = static_cast<double>(update.bytes - bytes);
  session_.say(fmt::format("{}'s update: {} of {} are here{}", client,
                           bytes_text(static_cast<std::int64_t>(bytes)),
                           bytes_text(static_cast<std::int64_t>(update.bytes)),
                           rate > 0 ? fmt::format(", {:.0f} s left", left / rate) : ""));
}

}  // namespace program
