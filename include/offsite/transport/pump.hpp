#pragma once
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "offsite/federation/events.hpp"
#include "offsite/federation/wire.hpp"
#include "offsite/transport/transport.hpp"

namespace offsite {

/// Answers of long work, put in by whichever thread did it.
class AnswerQueue {
 public:
  void put(federation::Event event) {
    const std::lock_guard lock(mutex_);
    events_.push_back(std::move(event));
  }
  [[nodiscard]] std::optional<federation::Event> take() {
    const std::lock_guard lock(mutex_);
    if (events_.empty()) return std::nullopt;
    auto event = std::move(events_.front());
    events_.pop_front();
    return event;
  }

 private:
  std::mutex mutex_;
  std::deque<federation::Event> events_;
};

/// Feeds a started node from a transport, a clock and the answers of its host's work, until `over()`.
///
/// Messages that cannot be decoded are told to `refused(peer, sentence)` and dropped: the sender asks again. Whatever the
/// journal throws ends the loop; build the node anew from the journal then. \param tick_ms  between ticks, at most 1000
template <class Node, Transport T, class Over, class Refusal>
void pump(Node& node, T& transport, AnswerQueue& answers, Over&& over, Refusal&& refused,
          std::int64_t tick_ms = 500) {
  const auto clock = [] {
    return static_cast<std::int64_t>(std::chrono::steady_clock::now().time_since_epoch() /
                                     std::chrono::milliseconds(1));
  };
  std::int64_t next_tick = clock();
  while (!over()) {
    while (auto answer = answers.take()) node.handle(*std::move(answer));
    if (clock() >= next_tick) {
      node.handle(federation::Tick{clock()});
      next_tick = clock() + tick_ms;
    }
    if (over()) return;
    auto arrival = transport.receive(std::min<std::int64_t>(tick_ms, 20));
    if (!arrival) continue;
    if (arrival->kind == Arrival::Kind::kConnected) {
      node.handle(federation::Connected{arrival->peer});
    } else if (arrival->kind == Arrival::Kind::kDisconnected) {
      node.handle(federation::Disconnected{arrival->peer});
    } else {
      std::optional<federation::Message> message;
      try {
        message = federation::decode(std::move(arrival->frame), arrival->peer);
      } catch (const ProtocolError& error) {
        refused(arrival->peer, std::string(error.what()));
      }
      if (message) node.handle(federation::Arrived{arrival->peer, *std::move(message)});
    }
  }
}

}  // namespace offsite
