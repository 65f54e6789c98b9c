#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/federation/admission.hpp"
#include "offsite/federation/events.hpp"
#include "offsite/federation/owner_options.hpp"
#include "offsite/federation/owner_state.hpp"
#include "offsite/federation/round_standing.hpp"
#include "offsite/federation/update_limits.hpp"
#include "offsite/federation/uploads.hpp"

namespace offsite::federation {

/// The owner of a federation as a state machine without I/O: events in, actions out (see events.hpp).
///
/// It waits for clients, opens a round, takes and checks their updates, has them aggregated and scored, keeps the
/// result if the loss on held-out data did not grow, and goes on. An update counts if and only if it was recorded,
/// and it is acknowledged only after that. Everything it must remember is in its records.
class Owner {
 public:
  /// \param records  of the journal, as they were appended: none at the first start
  /// \throws ArgumentError for options out of range, or a journal of another run; ProtocolError if it is damaged.
  Owner(OwnerOptions options, RunDescription description, std::span<const Record> records)
      : options_(std::move(options)), description_(std::move(description)) {
    options_.check();
    for (const auto& record : records) state_.apply(record);
    require(state_.run.empty() || state_.run == description_.run,
            "the journal is of the run {}, but {} was asked for", offsite::detail::shown(state_.run),
            offsite::detail::shown(description_.run));
    for (const auto& part : description_.offer) readable_.insert(part.blob.sha256);
  }

  /// What to do first, at every start.
  [[nodiscard]] Actions start() {
    Actions out;
    if (state_.run.empty())
      commit("run",
             {{"run", description_.run},
              {"global", detail::blob_json(description_.global)},
              {"rounds", options_.rounds}},
             out);
    for (const auto& hash : state_.garbage) drop(hash, out);
    advance(out);
    return out;
  }

  [[nodiscard]] Actions handle(Event event) {
    Actions out;
    if (!over_) {
      std::visit([&](auto& e) { on(e, out); }, event);
      advance(out);
    }
    return out;
  }

  [[nodiscard]] const OwnerState& state() const { return state_; }
  /// Clients that were heard of lately.
  [[nodiscard]] std::vector<std::string> present() const {
    std::vector<std::string> names;
    for (const auto& [name, peer] : peers_)
      if (is_present(peer) && !state_.left.contains(name)) names.push_back(name);
    return names;
  }

 private:
  struct Peer {
    bool connected = true;
    std::int64_t heard = 0;
    std::optional<Doing> doing;  // of its last status
  };

  [[nodiscard]] std::int64_t now() const { return clock_.now(); }
  [[nodiscard]] bool is_present(const Peer& peer) const {
    return peer.connected && now() - peer.heard <= options_.silence_ms;
  }
  void commit(const char* kind, std::initializer_list<JsonMember> fields, Actions& out) {
    Record record{kind, Json::object(fields)};
    state_.apply(record);
    out.push_back(Write{std::move(record)});
  }

  // --- Events -----------------------------------------------------------------------------------------------------

  void on(const Tick& tick, Actions& out) {
    clock_.tick(tick.now_ms, options_.timing.longest_step_ms);
    for (auto& [name, peer] : peers_)
      if (is_present(peer)) uploads_.tick(name, now(), out);
  }
  void on(const Connected& event, Actions&) {
    auto& peer = peers_[event.peer];
    peer.connected = true;
    peer.heard = now();
  }
  void on(const Disconnected& event, Actions&) { peers_[event.peer].connected = false; }

  void on(Arrived& event, Actions& out) {
    auto& peer = peers_[event.peer];
    peer.connected = true;
    peer.heard = now();
    std::visit([&](auto& message) { on_message(event.peer, peer, message, out); }, event.message);
  }

  void on_message(const std::string& name, Peer&, const Hello& hello, Actions& out) {
    const auto reason = why_not_admitted(name, hello, options_, description_, state_);
    if (!reason.empty()) {
      out.push_back(Send{name, Refused{Refused::About::kHello, hello.nonce, description_.run, 0, reason}});
      return;
    }
    const auto known = state_.clients.find(name);
    if (known == state_.clients.end() || known->second != hello.samples || state_.left.contains(name))
      commit("client", {{"client", name}, {"samples", hello.samples}, {"version", hello.version}}, out);
    out.push_back(Send{name, Welcome{hello.nonce, description_.run, description_.split, description_.offer,
                                     options_.rounds}});
  }

  /// Whether a message is of this run, from one that was admitted; tells it otherwise.
  [[nodiscard]] bool is_ours(const std::string& name, const std::string& run, Actions& out) {
    if (run == description_.run && state_.clients.contains(name) && !state_.left.contains(name)) return true;
    const auto reason = run == description_.run
                            ? std::string("the owner does not know this client: it must say hello first")
                            : "the owner's run is " + offsite::detail::shown(description_.run);
    out.push_back(Send{name, Refused{Refused::About::kStatus, 0, description_.run, 0, reason}});
    return false;
  }

  void on_message(const std::string& name, Peer& peer, const Status& status, Actions& out) {
    if (!is_ours(name, status.run, out)) return;
    peer.doing = status.doing;
    if (state_.finished) {
      if (status.doing == Doing::kDone) {
        done_.insert(name);
      } else {
        out.push_back(goodbye(name));
      }
    } else if (!is_awaited(state_, name)) {
      out.push_back(
          Send{name, Wait{state_.run, state_.round, waiting_for(state_, name, options_.min_clients)}});
    } else if (status.round < state_.round) {
      out.push_back(round_for(name));
    } else {
      out.push_back(
          Send{name, Wait{state_.run, state_.round - 1, waiting_for(state_, name, options_.min_clients)}});
    }
  }
  void on_message(const std::string& name, Peer&, const Want& want, Actions& out) {
    if (!state_.clients.contains(name)) return;
    const auto* blob = readable(want.sha256);
    if (blob == nullptr || want.offset >= blob->bytes || want.bytes > blob->bytes - want.offset) return;
    out.push_back(SendChunk{name, want});
  }

  /// What clients may read: the offer and the adapters of now.
  [[nodiscard]] const Blob* readable(const std::string& sha256) const {
    if (sha256 == state_.global.sha256) return &state_.global;
    if (!readable_.contains(sha256)) return nullptr;
    for (const auto& part : description_.offer)
      if (part.blob.sha256 == sha256) return &part.blob;
    return nullptr;
  }

  void on_message(const std::string& name, Peer&, Chunk& chunk, Actions& out) {
    uploads_.handle(name, chunk, now(), out);
  }

  void on_message(const std::string& name, Peer&, const UpdateReady& ready, Actions& out) {
    if (!is_ours(name, ready.run, out)) return;
    const auto accepted = state_.accepted.find({name, ready.round});
    if (accepted != state_.accepted.end() && accepted->second == ready.update.sha256) {
      out.push_back(Send{name, Accepted{state_.run, ready.round, ready.update.sha256}});
      return;
    }
    const auto reason = why_not_awaited(state_, name, ready.round);
    if (!reason.empty()) {
      out.push_back(refusal(name, ready.round, reason));
      return;
    }
    if (const auto limit = over_limit(ready, options_, description_.max_update_bytes); !limit.empty()) {
      refuse(name, limit, out);
      return;
    }
    if (uploads_.is_under_way(name, ready.update)) return;  // the clock asks again
    if (const auto other = uploads_.take(name)) forget(name, *other, out);
    uploads_.begin(name, ready, options_.timing, now(), out);
  }

  [[nodiscard]] Action refusal(const std::string& name, std::int64_t round, const std::string& reason) const {
    return Send{name, Refused{Refused::About::kUpdate, 0, state_.run, round, reason}};
  }
  /// The client's update of this round does not count, for good.
  void refuse(const std::string& name, const std::string& reason, Actions& out) {
    if (const auto upload = uploads_.take(name)) forget(name, *upload, out);
    commit("refused", {{"round", state_.round}, {"client", name}, {"reason", reason}}, out);
    out.push_back(refusal(name, state_.round, reason));
  }

  void on_message(const std::string& name, Peer&, const Leave& leave, Actions& out) {
    if (leave.run != description_.run || !state_.clients.contains(name) || state_.left.contains(name)) return;
    commit("left", {{"client", name}, {"reason", leave.reason}}, out);
  }

  // What only an owner sends.
  template <class Other>
  void on_message(const std::string&, Peer&, const Other&, Actions&) {}

  void on(const PartOpened& event, Actions& out) { uploads_.handle(event, out); }
  void on(const PartFinished& event, Actions& out) {
    if (!uploads_.handle(event, out))
      refuse(event.peer, "the update's bytes do not have the SHA-256 that was announced", out);
  }

  /// The round takes no more updates: those under way are refused.
  void abandon_uploads(Actions& out) {
    while (const auto next = uploads_.take_first()) {
      const auto& [name, upload] = *next;
      forget(name, upload, out);
      out.push_back(refusal(name, upload.offer.round, why_not_awaited(state_, name, upload.offer.round)));
    }
  }

  /// Nothing of an update that was taken from those under way is wanted any more.
  void forget(const std::string& name, const Uploads::Upload& upload, Actions& out) const {
    out.push_back(DropPart{name, upload.offer.update});
    if (upload.checking) drop(upload.offer.update.sha256, out);
  }

  /// Forgets a blob unless something else that is still needed has the same bytes.
  void drop(const std::string& hash, Actions& out) const {
    bool needed = readable_.contains(hash) || hash == state_.global.sha256 || hash == state_.policy_state ||
                  hash == state_.candidate.sha256 || hash == state_.candidate_state || uploads_.checks(hash);
    for (const auto& [name, update] : state_.updates) needed = needed || update.blob.sha256 == hash;
    if (!needed) out.push_back(DropBlob{hash});
  }

  void on(const Checked& event, Actions& out) {
    const auto offer = uploads_.take_checked(event);
    if (!offer) return;
    const auto reason = event.error.empty() ? unusual_norm(event.norm, state_.norms, options_) : event.error;
    if (!reason.empty()) {
      refuse(event.peer, reason, out);
      drop(offer->update.sha256, out);
      return;
    }
    commit("update",
           {{"round", offer->round},
            {"client", event.peer},
            {"update", detail::blob_json(offer->update)},
            {"samples", offer->samples},
            {"steps", offer->steps},
            {"norm", event.norm},
            {"loss", offer->loss}},
           out);
    out.push_back(Send{event.peer, Accepted{state_.run, offer->round, offer->update.sha256}});
  }

  void on(const Aggregated& event, Actions& out) {
    if (state_.phase != RoundPhase::kClosed || event.round != state_.round || state_.finished) return;
    asked_ = false;
    if (event.error.empty()) {
      commit("aggregated",
             {{"round", state_.round},
              {"global", detail::blob_json(event.global)},
              {"policy_state", event.policy_state}},
             out);
    } else {
      decide(false, {event.global.sha256, 0, event.error}, out);
    }
  }

  void on(const Scored& event, Actions& out) {
    if (state_.finished) return;
    if (!state_.loss) {
      if (event.sha256 != state_.global.sha256) return;
      asked_ = false;
      if (event.error.empty() && std::isfinite(event.loss)) {
        commit("baseline", {{"loss", event.loss}, {"accuracy", detail::number_or_null(event.accuracy)}}, out);
      } else {
        finish("the model at the start cannot be scored: " +
                   (event.error.empty() ? std::string("its loss is not finite") : event.error),
               out);
      }
    } else if (state_.phase == RoundPhase::kAggregated && event.sha256 == state_.candidate.sha256) {
      asked_ = false;
      const bool better = event.error.empty() && std::isfinite(event.loss) && event.loss <= *state_.loss;
      decide(better, event, out);
    }
  }

  void decide(bool kept, const Scored& score, Actions& out) {
    commit("decided",
           {{"round", state_.round},
            {"kept", kept},
            {"loss", score.loss},
            {"accuracy", detail::number_or_null(score.accuracy)},
            {"error", score.error}},
           out);
    for (const auto& hash : state_.garbage) drop(hash, out);
    since_ = now();
  }

  void on(const Installed&, Actions&) {}  // what only a client gets
  void on(const Trained&, Actions&) {}

  // --- Going on ---------------------------------------------------------------------------------------------------

  void advance(Actions& out) {
    if (state_.finished) return end(out);
    if (!state_.loss) return ask(Score{state_.global.sha256}, out);
    if (state_.phase == RoundPhase::kIdle) begin_round(out);
    if (state_.phase == RoundPhase::kOpen) close_round(out);
    if (state_.phase == RoundPhase::kClosed) ask(aggregation_of(state_), out);
    if (state_.phase == RoundPhase::kAggregated) ask(Score{state_.candidate.sha256}, out);
    if (state_.finished) end(out);
  }

  /// Asks for an answer once; after a restart, once more.
  void ask(Action request, Actions& out) {
    if (std::exchange(asked_, true)) return;
    out.push_back(std::move(request));
  }

  void begin_round(Actions& out) {
    if (state_.round == options_.rounds) return finish("", out);
    const auto is_ready = [&](const std::string& name, const Peer& peer) {
      return peer.doing && *peer.doing != Doing::kFetching && state_.clients.contains(name);
    };
    std::vector<std::string> here;
    for (const auto& name : present())
      if (is_ready(name, peers_.at(name))) here.push_back(name);
    const auto came = std::count_if(peers_.begin(), peers_.end(), [&](const auto& entry) {
      return is_ready(entry.first, entry.second) || state_.left.contains(entry.first);
    });
    if (std::ssize(here) < options_.min_clients || came < options_.start_clients) {
      if (now() - since_ > options_.patience_ms)
        finish(
            formatted(
                "round {} did not begin: {} of at least {} clients were here within {} s; see whether they "
                "run and reach this owner",
                state_.round + 1, here.size(), std::max(options_.min_clients, options_.start_clients),
                options_.patience_ms / 1000),
            out);
      return;
    }
    const auto chosen = choose_clients(here, options_, state_.round + 1);
    commit("round", {{"round", state_.round + 1}, {"chosen", chosen}}, out);
    since_ = now();
    for (const auto& name : state_.chosen) out.push_back(round_for(name));
  }

  [[nodiscard]] Action round_for(const std::string& name) const {
    return Send{name, Round{state_.run, state_.round, state_.global, description_.training}};
  }

  void close_round(Actions& out) {
    const bool all = std::all_of(state_.chosen.begin(), state_.chosen.end(),
                                 [&](const std::string& name) { return is_settled(state_, name); });
    const bool enough = std::ssize(state_.updates) >= options_.min_clients;
    const bool late = now() - since_ > options_.deadline_ms;
    if (enough && (all || late)) {
      commit("closed", {{"round", state_.round}}, out);
      abandon_uploads(out);
      return;
    }
    if (!late) return;
    if (state_.extensions >= options_.max_extensions)
      return finish(
          formatted("round {} has {} of at least {} updates after {} deadlines of {} s; see the clients' "
                    "messages, or give them longer",
                    state_.round, state_.updates.size(), options_.min_clients, state_.extensions + 1,
                    options_.deadline_ms / 1000),
          out);
    auto chosen = state_.chosen;
    for (const auto& name : present())
      if (state_.clients.contains(name) && !is_chosen(state_, name)) chosen.push_back(name);
    std::sort(chosen.begin(), chosen.end());
    commit("extended", {{"round", state_.round}, {"chosen", chosen}}, out);
    since_ = now();
    for (const auto& name : state_.chosen)
      if (!is_settled(state_, name)) out.push_back(round_for(name));
  }

  void finish(const std::string& error, Actions& out) {
    commit("finished", {{"error", error}}, out);
    abandon_uploads(out);
    since_ = now();
    for (const auto& name : present())
      if (state_.clients.contains(name)) out.push_back(goodbye(name));
  }
  [[nodiscard]] Action goodbye(const std::string& name) const {
    return Send{name, Goodbye{state_.run, state_.global, state_.aggregated, state_.error}};
  }

  /// Stays until every client has the final adapters, or had time to fetch them.
  void end(Actions& out) {
    const bool all = std::all_of(state_.clients.begin(), state_.clients.end(), [&](const auto& client) {
      return done_.contains(client.first) || state_.left.contains(client.first);
    });
    if (over_ || (!all && now() - since_ <= options_.grace_ms)) return;
    over_ = true;
    out.push_back(Finish{state_.error});
  }

  OwnerOptions options_;
  RunDescription description_;
  OwnerState state_;
  std::set<std::string> readable_;
  MachineClock clock_;
  std::map<std::string, Peer> peers_;
  Uploads uploads_;
  std::set<std::string> done_;
  std::int64_t since_ = 0;  // the phase's beginning
  bool asked_ = false;      // the answer that the phase needs was asked for
  bool over_ = false;
};

}  // namespace offsite::federation
