#pragma once
#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/federation/downloads.hpp"
#include "offsite/federation/events.hpp"
#include "offsite/federation/message_fields.hpp"
#include "offsite/federation/split_difference.hpp"

namespace offsite::federation {

/// How a client takes part. Times are in milliseconds of the machine's time (see `Tick`).
struct ClientOptions {
  Json split = Json::object();         ///< what it expects of the owner's split: any fields of `split.json`
  std::int64_t samples = 0;            ///< it has for training, >= 0
  std::string version;                 ///< the program's, for people
  std::uint64_t nonce = 0;             ///< another one at each start
  std::int64_t heartbeat_ms = 5'000;   ///< between signs of life, > 0
  std::int64_t patience_ms = 600'000;  ///< with an owner that is silent, > 0
  Timing timing;

  /// \throws ArgumentError naming the first option that is out of its range.
  void check() const {
    require(samples >= 0, "samples is {}, but it cannot be negative", samples);
    require(heartbeat_ms > 0 && patience_ms > 0,
            "heartbeat_ms is {} and patience_ms {}, but both must be positive", heartbeat_ms, patience_ms);
    timing.check();
  }
};

/// What a client must remember: the sum of its records.
struct ClientState {
  std::string run;                    ///< empty before it was first admitted
  std::int64_t round = 0;             ///< the last it began
  bool settled = true;                ///< it is done with: accepted, refused or missed
  std::optional<UpdateReady> update;  ///< the round's, trained and not yet answered

  bool operator==(const ClientState&) const = default;

  /// \throws ProtocolError if the record does not fit: the journal is damaged.
  void apply(const Record& record) {
    const auto what = "the record '" + record.kind + "' of the client's journal";
    const detail::Fields fields(record.fields, what);
    if (record.kind == "joined") {
      *this = {};
      run = detail::run_name(fields);
    } else if (record.kind == "round") {
      round = fields.integer("round", round + 1, INT64_MAX);
      settled = false;
      update.reset();
    } else if (record.kind == "trained") {
      UpdateReady ready;
      read_fields(fields, ready);
      require<ProtocolError>(ready.round == round,
                             "{} is of round {}, but {} was begun: the journal is damaged", what, ready.round,
                             round);
      update = std::move(ready);
    } else if (record.kind == "settled") {
      settled = true;
      update.reset();
    } else {
      require<ProtocolError>(record.kind == "finished",
                             "{} is of no known kind: it was written by another version", what);
    }
  }
};

/// A client of a federation as a state machine without I/O: events in, actions out (see events.hpp).
///
/// It says hello until it is answered, fetches what it lacks of the offer, and tells what it is doing at each heartbeat;
/// the owner's answers move it on. A round whose training was interrupted is asked for and trained again, by a host that
/// keeps checkpoints from the newest; one that was trained is offered until the owner answers.
class Client {
 public:
  /// \param records  of the journal, as they were appended: none at the first start
  /// \throws ArgumentError for options out of range; ProtocolError if the journal is damaged.
  Client(ClientOptions options, std::span<const Record> records) : options_(std::move(options)) {
    options_.check();
    for (const auto& record : records) state_.apply(record);
  }

  [[nodiscard]] Actions start() {
    Actions out;
    greet(out);
    return out;
  }

  [[nodiscard]] Actions handle(Event event) {
    Actions out;
    if (phase_ != Phase::kOver) std::visit([&](auto& e) { on(e, out); }, event);
    return out;
  }

  [[nodiscard]] const ClientState& state() const { return state_; }
  /// What it is doing, for people: e.g. "waits for the owner's answer to its hello".
  [[nodiscard]] std::string activity() const {
    switch (phase_) {
      case Phase::kGreeting:
        return "waits for the owner's answer to its hello";
      case Phase::kFetchingOffer:
        return "fetches the offer";
      case Phase::kInstalling:
        return "builds the sub-model";
      case Phase::kReady:
        return "waits for the next round";
      case Phase::kFetchingGlobal:
        return formatted("fetches the adapters of round {}", state_.round);
      case Phase::kTraining:
        return formatted("trains in round {}", state_.round);
      case Phase::kUploading:
        return formatted("offers its update of round {}", state_.round);
      case Phase::kFetchingFinal:
        return "fetches the final adapters";
      case Phase::kOver:
        break;
    }
    return "is at its end";
  }
  /// SHA-256 of the final adapters, in the journal once it is at its end; empty before the owner's goodbye.
  [[nodiscard]] const std::string& final_adapters() const { return goodbye_.global.sha256; }
  /// Bytes here and wanted of what is being fetched.
  [[nodiscard]] std::pair<std::uint64_t, std::uint64_t> progress() const {
    return {download_.bytes_here(), download_.bytes_wanted()};
  }

 private:
  enum class Phase {
    kGreeting,
    kFetchingOffer,
    kInstalling,
    kReady,
    kFetchingGlobal,
    kTraining,
    kUploading,
    kFetchingFinal,
    kOver
  };

  [[nodiscard]] std::int64_t now() const { return clock_.now(); }

  void commit(const char* kind, Json fields, Actions& out) {
    Record record{kind, std::move(fields)};
    state_.apply(record);
    out.push_back(Write{std::move(record)});
  }
  void send(Message message, Actions& out) { out.push_back(Send{std::string(kOwner), std::move(message)}); }
  void fetch(std::vector<Blob> blobs, Phase phase, Actions& out) {
    phase_ = phase;
    download_ = Downloads(std::string(kOwner), std::move(blobs), true, options_.timing, now(), out);
  }
  void greet(Actions& out) {
    phase_ = Phase::kGreeting;
    beat_ = now();
    send(Hello{kProtocolVersion, options_.version, options_.nonce, options_.split, options_.samples}, out);
  }
  void tell(Actions& out) {
    beat_ = now();
    const auto doing = phase_ == Phase::kFetchingOffer || phase_ == Phase::kInstalling ? Doing::kFetching
                       : phase_ == Phase::kReady                                       ? Doing::kReady
                       : phase_ == Phase::kUploading                                   ? Doing::kUploading
                                                                                       : Doing::kTraining;
    send(Status{welcome_.run, doing, state_.round - (is_interrupted() ? 1 : 0)}, out);
    if (phase_ == Phase::kUploading) send(*state_.update, out);
  }
  void end(const std::string& error, Actions& out) {
    phase_ = Phase::kOver;
    out.push_back(Finish{error});
  }

  // --- Events -----------------------------------------------------------------------------------------------------

  void on(const Tick& tick, Actions& out) {
    clock_.tick(tick.now_ms, options_.timing.longest_step_ms);
    if (now() - heard_ > options_.patience_ms)
      return end(
          formatted("the owner was silent for {} s while this client {}; see whether it runs and can be "
                    "reached, then start this client again: it goes on where it was",
                    options_.patience_ms / 1000, activity()),
          out);
    if (phase_ == Phase::kFetchingOffer || phase_ == Phase::kFetchingGlobal ||
        phase_ == Phase::kFetchingFinal)
      download_.tick(now(), out);
    if (now() - beat_ < options_.heartbeat_ms) return;
    if (phase_ == Phase::kGreeting) return greet(out);
    tell(out);
  }
  void on(const Connected&, Actions& out) {
    if (phase_ == Phase::kGreeting) return greet(out);
    tell(out);
  }
  void on(const Disconnected&, Actions&) {}

  void on(Arrived& event, Actions& out) {
    heard_ = now();
    std::visit([&](auto& message) { on_message(message, out); }, event.message);
  }

  void on_message(Welcome& welcome, Actions& out) {
    if (phase_ != Phase::kGreeting || welcome.nonce != options_.nonce) return;
    if (const auto difference = explain_split_difference(options_.split, welcome.split); !difference.empty())
      return end("the owner's offer is not what was expected: " + difference, out);
    if (state_.run != welcome.run) commit("joined", Json::object({{"run", welcome.run}}), out);
    if (welcome_.run == welcome.run) {  // the owner had forgotten it; nothing else has changed
      resume(out);
      return;
    }
    welcome_ = std::move(welcome);
    std::vector<Blob> blobs;
    for (const auto& part : welcome_.offer) blobs.push_back(part.blob);
    fetch(std::move(blobs), Phase::kFetchingOffer, out);
    after_download(out);
  }

  void on_message(const Refused& refused, Actions& out) {
    if (refused.about == Refused::About::kHello) {
      if (phase_ == Phase::kGreeting && refused.nonce == options_.nonce)
        end("the owner refuses this client: " + refused.reason, out);
    } else if (refused.about == Refused::About::kStatus) {
      if (phase_ == Phase::kReady || phase_ == Phase::kUploading) greet(out);
    } else if (is_current(refused.run) && refused.round == state_.round && phase_ == Phase::kUploading) {
      out.push_back(
          Notice{formatted("the owner refuses the update of round {}: {}", state_.round, refused.reason)});
      settle("refused", out);
    }
  }

  void on_message(const Accepted& accepted, Actions& out) {
    if (is_current(accepted.run) && phase_ == Phase::kUploading && accepted.round == state_.round &&
        accepted.sha256 == state_.update->update.sha256)
      settle("accepted", out);
  }

  void on_message(const Wait& wait, Actions& out) {
    if (!is_current(wait.run) || wait.over < state_.round) return;
    if (phase_ == Phase::kTraining) out.push_back(CancelTraining{state_.round});
    if (phase_ != Phase::kTraining && phase_ != Phase::kFetchingGlobal) return;
    out.push_back(Notice{formatted("round {} ended without this client: {}", state_.round, wait.reason)});
    settle("late", out);
  }

  void on_message(Round& round, Actions& out) {
    const bool can_begin = phase_ == Phase::kReady || phase_ == Phase::kUploading ||
                           phase_ == Phase::kTraining || phase_ == Phase::kFetchingGlobal;
    if (!is_current(round.run) || !can_begin || round.round < state_.round) return;
    // A round that was begun before a restart, and not trained to its end, begins again.
    if (round.round == state_.round && !is_interrupted()) return;
    if (phase_ == Phase::kTraining) out.push_back(CancelTraining{state_.round});
    const auto update = state_.update;
    if (round.round > state_.round) commit("round", Json::object({{"round", round.round}}), out);
    if (update) drop(update->update.sha256, out);
    round_ = std::move(round);
    fetch({round_.global}, Phase::kFetchingGlobal, out);
  }

  void on_message(const Goodbye& goodbye, Actions& out) {
    if (!is_current(goodbye.run) || phase_ == Phase::kFetchingFinal) return;
    if (phase_ == Phase::kTraining) out.push_back(CancelTraining{state_.round});
    goodbye_ = goodbye;
    fetch({goodbye.global}, Phase::kFetchingFinal, out);
  }

  void on_message(const Want& want, Actions& out) {
    if (!state_.update || want.sha256 != state_.update->update.sha256) return;
    const auto bytes = state_.update->update.bytes;
    if (want.offset < bytes && want.bytes <= bytes - want.offset)
      out.push_back(SendChunk{std::string(kOwner), want});
  }
  void on_message(Chunk& chunk, Actions& out) { download_.handle(chunk, now(), out); }

  // What only a client sends.
  template <class Other>
  void on_message(const Other&, Actions&) {}

  void on(const PartOpened& event, Actions& out) {
    download_.handle(event, out);
    after_download(out);
  }
  void on(const PartFinished& event, Actions& out) {
    download_.handle(event, out);
    after_download(out);
  }

  void after_download(Actions& out) {
    if (const auto* broken = download_.broken(); broken != nullptr)
      return end("the owner's bytes do not have the SHA-256 it announced, " + broken->sha256, out);
    if (!download_.complete()) return;
    if (phase_ == Phase::kFetchingOffer) {
      phase_ = Phase::kInstalling;
      out.push_back(Install{welcome_});
    } else if (phase_ == Phase::kFetchingGlobal) {
      phase_ = Phase::kTraining;
      out.push_back(Train{round_});
    } else if (phase_ == Phase::kFetchingFinal) {
      commit("finished", Json::object({{"error", goodbye_.error}}), out);
      send(Status{welcome_.run, Doing::kDone, state_.round}, out);
      end(goodbye_.error.empty() ? "" : "the owner ended the run early: " + goodbye_.error, out);
    }
  }

  void on(const Installed& event, Actions& out) {
    if (phase_ != Phase::kInstalling || event.run != welcome_.run) return;
    if (!event.error.empty()) {
      send(Leave{welcome_.run, "its offer could not be used"}, out);
      return end("the owner's offer cannot be used: " + event.error, out);
    }
    resume(out);
  }

  void on(const Trained& event, Actions& out) {
    if (phase_ != Phase::kTraining || event.round != state_.round) return;
    if (!event.error.empty()) {
      send(Leave{welcome_.run, "its training failed"}, out);
      return end(formatted("the training of round {} failed: {}", event.round, event.error), out);
    }
    const UpdateReady ready{welcome_.run, event.round, event.update, event.samples, event.steps, event.loss};
    commit("trained", write_fields(ready), out);
    drop(round_.global.sha256, out);
    resume(out);
  }

  // What only an owner gets.
  void on(const Checked&, Actions&) {}
  void on(const Aggregated&, Actions&) {}
  void on(const Scored&, Actions&) {}

  // ----------------------------------------------------------------------------------------------------------------

  /// Its round was begun before a restart, and has no update: the owner must send it once more.
  [[nodiscard]] bool is_interrupted() const { return phase_ == Phase::kReady && !state_.settled; }
  [[nodiscard]] bool is_current(const std::string& run) const { return run == welcome_.run && !run.empty(); }

  /// Goes to where the state says it is.
  void resume(Actions& out) {
    phase_ = state_.update ? Phase::kUploading : Phase::kReady;
    tell(out);
  }
  void settle(const char* how, Actions& out) {
    const auto update = state_.update;
    commit("settled", Json::object({{"round", state_.round}, {"how", how}}), out);
    if (update) drop(update->update.sha256, out);
    resume(out);
  }
  /// Forgets a blob unless something else that is still needed has the same bytes.
  void drop(const std::string& hash, Actions& out) const {
    bool needed = state_.update && state_.update->update.sha256 == hash;
    for (const auto& part : welcome_.offer) needed = needed || part.blob.sha256 == hash;
    if (!needed) out.push_back(DropBlob{hash});
  }

  ClientOptions options_;
  ClientState state_;
  Phase phase_ = Phase::kGreeting;
  MachineClock clock_;
  Welcome welcome_;
  Round round_;
  Goodbye goodbye_;
  Downloads download_;
  std::int64_t heard_ = 0;  // when the owner was
  std::int64_t beat_ = 0;   // when this client last spoke unasked
};

}  // namespace offsite::federation
