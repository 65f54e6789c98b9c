#pragma once
#include <algorithm>
#include <cstddef>
#include <deque>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "offsite/federation/events.hpp"
#include "offsite/federation/journal.hpp"

namespace offsite::federation {

/// Runs a state machine: carries its actions out in their order, on a journal and through a host.
///
/// `host(action)` is called for what needs the world: `Send`, `CheckUpdate`, `Aggregate`, `Score`, `Install`, `Train`,
/// `CancelTraining`, `Notice` and `Finish`; long ones are answered later, by `handle`. A host that has
/// `send_chunk(const SendChunk&, SharedBytes)` is given the journal's bytes to send as a chunk without a copy (see
/// `encode_chunk`); others get a `Send`. If anything throws, the node must not be used again: build a new one from the
/// journal.
template <class Machine, Journal J, class Host>
class Node {
 public:
  Node(Machine machine, J& journal, Host& host)
      : machine_(std::move(machine)), journal_(&journal), host_(&host) {}

  void start() {
    carry_out(machine_.start());
    drain();
  }
  void handle(Event event) {
    waiting_.push_back(std::move(event));
    drain();
  }
  [[nodiscard]] const Machine& machine() const { return machine_; }

 private:
  void drain() {
    while (!waiting_.empty()) {
      auto event = std::move(waiting_.front());
      waiting_.pop_front();
      carry_out(machine_.handle(std::move(event)));
    }
  }
  void carry_out(Actions actions) {
    for (auto& action : actions) std::visit([&](auto& a) { perform(a); }, action);
  }

  void perform(Write& action) { journal_->append(action.record); }
  void perform(OpenPart& action) {
    const bool complete = action.reuse && journal_->contains(action.blob.sha256);
    const auto have = complete ? action.blob.bytes : journal_->open_part(action.peer, action.blob);
    waiting_.push_back(PartOpened{action.peer, action.blob, have, complete});
  }
  void perform(WritePart& action) {
    journal_->write_part(action.peer, action.blob, action.offset, std::move(action.bytes));
  }
  void perform(FinishPart& action) {
    const bool good = journal_->finish_part(action.peer, action.blob);
    waiting_.push_back(PartFinished{action.peer, action.blob, good});
  }
  void perform(DropPart& action) { journal_->drop_part(action.peer, action.blob); }
  void perform(DropBlob& action) { journal_->drop(action.sha256); }
  void perform(SendChunk& action) {
    if (!journal_->contains(action.want.sha256)) return;
    const auto view = journal_->view(action.want.sha256);
    if (action.want.offset >= view.bytes.size()) return;
    const auto bytes = view.bytes.subspan(action.want.offset);
    const auto taken = bytes.first(std::min<std::size_t>(bytes.size(), action.want.bytes));
    if constexpr (requires { host_->send_chunk(action, SharedBytes{taken, view.owner}); }) {
      host_->send_chunk(action, SharedBytes{taken, view.owner});
    } else {
      (*host_)(Send{action.peer, Chunk{action.want.sha256, action.want.offset,
                                       std::vector<std::byte>(taken.begin(), taken.end())}});
    }
  }
  template <class Outside>
  void perform(Outside& action) {
    (*host_)(std::move(action));
  }

  Machine machine_;
  J* journal_;
  Host* host_;
  std::deque<Event> waiting_;
};

}  // namespace offsite::federation
