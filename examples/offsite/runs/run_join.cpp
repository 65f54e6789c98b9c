#include <fmt/format.h>

#include <atomic>
#include <cmath>
#include <cstdio>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>

#include "offsite/core/error.hpp"
#include "offsite/core/version.hpp"
#include "offsite/data/any_task.hpp"
#include "offsite/federation/client.hpp"
#include "offsite/federation/node.hpp"
#include "offsite/federation/observed_journal.hpp"
#include "offsite/federation/sqlite_journal.hpp"
#include "offsite/io/json.hpp"
#include "offsite/model_commands.hpp"
#include "offsite/runs/sides.hpp"
#include "offsite/runs/transfer_progress.hpp"
#include "offsite/runs/transports.hpp"
#include "offsite/runs/work_queue.hpp"
#include "offsite/session.hpp"

namespace program {

using namespace offsite;
using namespace offsite::federation;

namespace {

void remove_checkpoints(const Path& journal) {
  std::error_code ignored;
  std::filesystem::remove_all(checkpoints_of(journal), ignored);
}

/// Ends a training that is not wanted any more at once: what is interrupted writes a checkpoint first.
struct Cancelled {};

/// What a client's machine asks of the world.
struct ClientHost {
  AnyTransport& transport;
  SqliteJournal& journal;
  const JoinCommand& command;
  Session& session;
  AnswerQueue& answers;
  WorkQueue& work;
  std::optional<ClientSide> side;          // touched by the work alone
  std::atomic<std::int64_t> cancelled{0};  // the last round that is not wanted any more
  std::int64_t rounds = 0;                 // that were trained here
  std::optional<std::string> over;
  TransferProgress upload{"upload", session.common().quiet};
  TransferProgress download{"download", session.common().quiet};

  void operator()(const Send& send) { transport.send(send.peer, encode(send.message)); }
  void send_chunk(const SendChunk& request, const SharedBytes& bytes) {
    transport.send(request.peer, encode_chunk(request.want.sha256, request.want.offset, bytes));
    const auto& hash = request.want.sha256;
    upload.update(hash, request.want.offset + bytes.bytes.size(), journal.view(hash).bytes.size());
  }
  // What the owner sent is answered; whatever else goes wrong here, as a full disk, ends the process, and the same
  // command goes on.
  void operator()(const Install& request) {
    work.put([this, welcome = request.welcome] {
      Installed installed{welcome.run, {}};
      try {
        const auto* type = welcome.split.find("model_type");
        require<ProtocolError>(type != nullptr && type->is_string(), "the owner's split names no model type");
        side = commands_for_type(type->text(), "the owner's offer")
                   .client_side(command, session, welcome,
                                [this](std::string_view sha256) { return journal.view(sha256); });
      } catch (const ProtocolError& error) {
        installed.error = error.what();
      }
      answers.put(std::move(installed));
    });
  }
  void operator()(const Train& request) {
    work.put([this, round = request.round] {
      if (round.round <= cancelled) return;
      Trained trained;
      trained.round = round.round;
      try {
        const auto adapters = journal.view(round.global.sha256);
        TrainedUpdate result;
        writing([&] {  // checkpoints
          result = side.value().train(round, adapters.bytes, [&] {
            if (round.round <= cancelled) throw Cancelled{};
            return work.closed() || interrupted();
          });
        });
        if (result.summary.interrupted) return;
        trained.update = journal.put(result.update);
        trained.samples = result.summary.samples;
        trained.steps = result.summary.steps;
        trained.loss = result.summary.loss;
        ++rounds;
      } catch (const Cancelled&) {
        return;
      } catch (const NumericError& error) {
        trained.error = error.what();
      } catch (const ProtocolError& error) {
        trained.error = error.what();
      }
      answers.put(std::move(trained));
    });
  }
  void operator()(const CancelTraining& request) { cancelled = request.round; }
  void operator()(const CheckUpdate&) {}  // what only an owner is asked for
  void operator()(const Aggregate&) {}
  void operator()(const Score&) {}
  void operator()(const Notice& notice) { session.say(notice.text); }
  void operator()(const Finish& finish) { over = finish.error; }
};

/// What the client expects of the split: a JSON object, in a file or in the offer folder that holds one.
Json expected_split(const Path& given) {
  if (given.empty()) return Json::object();
  std::error_code unseen;
  auto split = read_json(std::filesystem::is_directory(given, unseen) ? given / "split.json" : given);
  require(split.is_object(), "--expect, {}, holds no JSON object", given.string());
  return split;
}

void join_over(AnyTransport& transport, const JoinCommand& command, Session& session) {
  SqliteJournal journal(command.journal);
  const auto task =
      task_named(command.data.task, {command.data.prompt_template, command.data.completion_template});
  require(std::isfinite(command.patience) && command.patience > 0 && command.patience <= 1e9,
          "--patience is {} seconds, but it must be above 0 and at most 1e9", command.patience);
  require(command.save_steps >= 0, "--save-steps is {}, but it must be at least 0", command.save_steps);
  ClientOptions options;
  options.split = expected_split(command.expect);
  options.samples = std::ssize(read_examples(task, command.data.data, command.data.range()));
  options.version = kVersion;
  options.nonce = (std::uint64_t{std::random_device{}()} << 32) | std::random_device{}();
  options.patience_ms = std::llround(command.patience * 1000);
  options.timing.chunk_bytes = kNetworkChunk;

  AnswerQueue answers;
  WorkQueue work;
  ClientHost host{transport, journal, command, session, answers, work, {}, {}, 0, {}};
  const auto records = journal.records();
  ObservedJournal observed(journal, [&](const Record& record) {
    if (record.kind == "settled")
      work.put([&] { remove_checkpoints(command.journal); });  // who writes them does it
  });
  Node node(federation::Client(options, records), observed, host);
  run_node(
      node, transport, answers, work,
      [&] {
        for (const auto& sentence : transport.notices()) session.say(sentence);
        const auto [here, wanted] = node.machine().progress();
        host.download.update("", here, wanted);
        const auto hopeless = transport.hopeless();
        require<Error>(hopeless.empty(), "{}", hopeless);
        return host.over.has_value() || interrupted();
      },
      [&](const std::string&, const std::string& sentence) { session.say(sentence); });
  require<Error>(host.over.has_value(), "interrupted while it {}; the same command goes on",
                 node.machine().activity());
  const auto& state = node.machine().state();
  if (state.settled || !node.machine().final_adapters().empty()) remove_checkpoints(command.journal);
  if (!command.out.empty() && !node.machine().final_adapters().empty()) {
    const auto adapters = journal.view(node.machine().final_adapters());
    writing([&] { write_file_atomically(command.out, std::span(&adapters.bytes, 1)); });
    session.say("wrote " + command.out.string());
  }
  session.results["run"] = state.run;
  session.results["rounds_trained"] = host.rounds;
  session.results["last_round"] = state.round;
  session.results["samples"] = options.samples;
  require<Error>(host.over->empty(), "{}", *host.over);
  std::printf("the run %s is over; %lld rounds were trained here\n", state.run.c_str(),
              static_cast<long long>(host.rounds));
}

}  // namespace

void run_join(const JoinCommand& command, Session& session) {
  listen_for_interrupts();
  auto transport = client_transport(command.network, command.name);
  join_over(transport, command, session);
}

}  // namespace program
