#include <fmt/format.h>
#include <stdlib.h>

#include <cstdio>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/federation/aggregate_round.hpp"
#include "offsite/federation/local_run.hpp"
#include "offsite/model_commands.hpp"
#include "offsite/runs/owner_run.hpp"
#include "offsite/runs/report.hpp"
#include "offsite/session.hpp"

namespace program {

using namespace offsite;
using namespace offsite::federation;

namespace {

/// A folder that lives as long as the object.
class TemporaryJournal {
 public:
  TemporaryJournal() {
    auto pattern = (std::filesystem::temp_directory_path() / "offsite-simulation-XXXXXX").string();
    require(::mkdtemp(pattern.data()) != nullptr, "cannot make the folder {}: {}", pattern,
            std::strerror(errno));
    path_ = pattern;
  }
  TemporaryJournal(const TemporaryJournal&) = delete;
  TemporaryJournal& operator=(const TemporaryJournal&) = delete;
  ~TemporaryJournal() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  [[nodiscard]] const Path& path() const { return path_; }

 private:
  Path path_;
};

/// Updates lie in files of the journal, so that only the client that trains takes memory.
void simulate_in(const Path& folder, const SimulateCommand& command, const SimulatedSides& sides,
                 Session& session) {
  auto run = open_owner_run(folder, sides.owner, command.rounds, {}, session.common().seed);
  RunReport report(session, command.training.log);
  report.resume(run.records);
  std::vector<LocalClient> clients;
  for (const auto& client : sides.clients) clients.push_back({client.name, client.samples});
  LocalWork work;
  work.aggregate = [&](const Aggregate& request) {
    return aggregate_round(run.aggregation, request, run.journal);
  };
  work.score = sides.owner.score;
  work.train = [&](std::size_t client, const Round& round, Bytes adapters, std::vector<std::byte>& update) {
    Trained trained;
    trained.round = round.round;
    try {
      auto result = sides.train(client, round, adapters, folder / "optimizer" / clients[client].name);
      require<Error>(!result.summary.interrupted,
                     "interrupted in round {}; with --data-dir the same command goes on", round.round);
      trained.samples = result.summary.samples;
      trained.steps = result.summary.steps;
      trained.loss = result.summary.loss;
      update = std::move(result.update);
    } catch (const NumericError& error) {
      trained.error = error.what();
    }
    return trained;
  };
  work.notice = [&](const std::string& text) { session.say(text); };
  ObservedJournal journal(run.journal, std::ref(report));
  const auto finish = [&] {
    std::fputs(round_table(report.summary()).text().c_str(), stdout);
    put_run(session.results, report.summary());
  };
  OwnerState state;
  try {
    state = run_locally(run.options, run.description, clients, journal, work);
  } catch (const Error&) {
    finish();
    throw;
  }
  finish();
  if (!command.out.out.empty()) sides.owner.save(run.journal.view(state.global.sha256).bytes, command.out);
}

}  // namespace

void run_simulate(SimulateCommand command, Session& session) {
  require(!command.training.eval_data.empty(), "--eval-data is needed: what rounds are scored by");
  listen_for_interrupts();
  const auto sides = commands_for(command.model).simulated_sides(command, session);
  const auto count = std::ssize(sides.clients);
  command.rounds.options.max_clients = std::max(command.rounds.options.max_clients, count);
  if (command.out.dry_run) {
    (void)owner_options(command.rounds, AnyAggregation::parse(command.rounds.aggregate),
                        session.common().seed);
    session.say(fmt::format("{} clients would take part", count));
    return;
  }
  if (!command.journal.empty()) return simulate_in(command.journal, command, sides, session);
  const TemporaryJournal journal;
  simulate_in(journal.path(), command, sides, session);
}

}  // namespace program
