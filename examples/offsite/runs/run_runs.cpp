#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <set>
#include <string>

#include "offsite/core/error.hpp"
#include "offsite/federation/run_summary.hpp"
#include "offsite/federation/sqlite_journal.hpp"
#include "offsite/runs/arguments.hpp"
#include "offsite/runs/report.hpp"
#include "offsite/session.hpp"

namespace program {

using namespace offsite;
using namespace offsite::federation;

namespace {

bool holds_journal(const Path& folder) {
  std::error_code unseen;
  return std::filesystem::is_regular_file(folder / "journal.sqlite", unseen);
}

/// Every journal of an owner in a folder, or the one that it is.
std::set<Path> journals_of(const Path& folder) {
  if (holds_journal(folder)) return {folder};
  std::set<Path> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error))
    if (holds_journal(entry.path())) found.insert(entry.path());
  return found;
}

Table client_table(const RunSummary& run) {
  Table table({"client", "samples", "updates", "refused", "remarks"});
  for (const auto& [name, client] : run.clients)
    table.add({Cell(name), Cell(client.samples), Cell(client.updates), Cell(client.refused),
               Cell(!client.left.empty() ? "left: " + client.left : client.last_refusal)});
  return table;
}

}  // namespace

void run_runs(const RunsCommand& command, Session& session) {
  const auto journals = journals_of(command.folder);
  require(!journals.empty(), "{} is no journal of a run, and no folder that holds one",
          command.folder.string());
  auto& list = session.results["runs"] = Json::array();
  bool first = true;
  for (const auto& folder : journals) {
    const auto records = read_records(folder);
    if (!records.empty() && records.front().kind != "run") {
      session.say(folder.string() + " is a client's journal");
      continue;
    }
    RunSummary run;
    for (const auto& record : records) run.apply(record);
    std::printf("%s%s in %s: %s, held-out loss %.4f\n", first ? "" : "\n",
                run.run.empty() ? "a run" : run.run.c_str(), folder.c_str(), run.state().c_str(), run.loss());
    first = false;
    std::fputs(round_table(run).text().c_str(), stdout);
    if (!run.clients.empty()) std::printf("\n%s", client_table(run).text().c_str());
    auto json = Json::object({{"folder", folder.string()}});
    put_run(json, run);
    list.push_back(json);
  }
}

}  // namespace program
