#include <fmt/format.h>

#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "offsite/core/error.hpp"
#include "offsite/federation/aggregate_round.hpp"
#include "offsite/federation/check_update.hpp"
#include "offsite/federation/node.hpp"
#include "offsite/federation/observed_journal.hpp"
#include "offsite/federation/owner.hpp"
#include "offsite/model_commands.hpp"
#include "offsite/runs/owner_run.hpp"
#include "offsite/runs/report.hpp"
#include "offsite/runs/transports.hpp"
#include "offsite/runs/work_queue.hpp"
#include "offsite/session.hpp"

namespace program {

using namespace offsite;
using namespace offsite::federation;

namespace {

/// What an owner's machine asks of the world.
struct OwnerHost {
  AnyTransport& transport;
  OwnerRun& run;
  const OwnerSide& side;
  const Session& session;
  AnswerQueue& answers;
  WorkQueue& work;
  TrainedShapes shapes;
  std::optional<std::string> over;  // the end: its error

  void operator()(const Send& send) { transport.send(send.peer, encode(send.message)); }
  void send_chunk(const SendChunk& request, const SharedBytes& bytes) {
    transport.send(request.peer, encode_chunk(request.want.sha256, request.want.offset, bytes));
  }
  void operator()(const CheckUpdate& request) {
    work.put([this, request] {
      const auto facts = check_update(run.journal.view(request.sha256), shapes);
      answers.put(Checked{request.peer, request.sha256, facts.norm, facts.error});
    });
  }
  void operator()(const Aggregate& request) {
    work.put([this, request] { answers.put(aggregate_round(run.aggregation, request, run.journal)); });
  }
  void operator()(const Score& request) {
    work.put([this, request] {
      Scored scored{request.sha256, 0, {}};
      try {
        const auto found = side.score(run.journal.view(request.sha256).bytes);
        scored.loss = found.loss;
        scored.accuracy = found.accuracy;
      } catch (const NumericError& error) {
        scored.error = error.what();
      }
      answers.put(std::move(scored));
    });
  }
  void operator()(const Install&) {}  // what only a client is asked for
  void operator()(const Train&) {}
  void operator()(const CancelTraining&) {}
  void operator()(const Notice& notice) { session.say(notice.text); }
  void operator()(const Finish& finish) { over = finish.error; }
};

/// Tells the report what is recorded, and what comes in.
struct OwnerWatch {
  RunReport& report;

  void operator()(const Record& record) { report(record); }
  void received(std::string_view peer, const Blob& blob, std::uint64_t bytes) {
    report.received(std::string(peer), blob, bytes);
  }
};

std::string serve_over(AnyTransport& transport, OwnerRun& run, const OwnerSide& side, RunReport& report,
                       const Session& session) {
  AnswerQueue answers;
  WorkQueue work;
  OwnerHost host{transport, run, side, session, answers, work, trained_shapes(side.start), {}};
  ObservedJournal journal(run.journal, OwnerWatch{report});
  Node node(federation::Owner(run.options, run.description, run.records), journal, host);
  run_node(
      node, transport, answers, work,
      [&] {
        for (const auto& sentence : transport.notices()) session.say(sentence);
        return host.over.has_value() || interrupted();
      },
      [&](const std::string&, const std::string& sentence) { session.say(sentence); });
  require<Error>(host.over.has_value(), "interrupted; the same command goes on with the run {}",
                 run.description.run);
  return *host.over;
}

}  // namespace

void run_serve(ServeCommand command, Session& session) {
  require(!command.training.eval_data.empty(), "--eval-data is needed: what rounds are scored by");
  const auto side = commands_for(command.model).serving_side(command, session);
  if (command.out.dry_run) {
    (void)owner_options(command.rounds, AnyAggregation::parse(command.rounds.aggregate),
                        session.common().seed);
    session.say(fmt::format("{} rounds would be led", command.rounds.options.rounds));
    return;
  }
  auto run = open_owner_run(command.journal, side, command.rounds, command.run, session.common().seed);
  RunReport report(session, command.training.log);
  report.resume(run.records);
  listen_for_interrupts();
  auto transport = owner_transport(command.network, command.rounds.options.names);
  session.say(fmt::format("the run {} waits for clients in {}", run.description.run, transport.place));
  const auto error = serve_over(transport, run, side, report, session);

  const auto& summary = report.summary();
  std::fputs(round_table(summary).text().c_str(), stdout);
  put_run(session.results, summary);
  OwnerState state;
  for (const auto& record : run.journal.records()) state.apply(record);
  // A run that ended early has the rounds that it kept.
  if (error.empty() || state.global != run.description.global)
    side.save(run.journal.view(state.global.sha256).bytes, command.out);
  require<Error>(error.empty(), "the run ended early: {}", error);
}

}  // namespace program
