#pragma once
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "offsite/transport/transport.hpp"

namespace offsite {

/// Mailboxes of one process, by name; for a federation on threads, and for tests.
class InProcessNetwork {
 public:
  void put(std::string_view to, Arrival arrival) {
    {
      const std::lock_guard lock(mutex_);
      boxes_[std::string(to)].push_back(std::move(arrival));
    }
    arrived_.notify_all();
  }
  [[nodiscard]] std::optional<Arrival> take(const std::string& name, std::int64_t timeout_ms) {
    std::unique_lock lock(mutex_);
    auto& box = boxes_[name];
    if (!arrived_.wait_for(lock, std::chrono::milliseconds(timeout_ms), [&] { return !box.empty(); }))
      return std::nullopt;
    auto arrival = std::move(box.front());
    box.pop_front();
    return arrival;
  }

 private:
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::map<std::string, std::deque<Arrival>> boxes_;
};

/// One end of an in-process network. Copies share the network.
class InProcessTransport {
 public:
  InProcessTransport(std::shared_ptr<InProcessNetwork> network, std::string self)
      : network_(std::move(network)), self_(std::move(self)) {}

  void send(std::string_view peer, std::span<const std::byte> frame) {
    network_->put(peer, {Arrival::Kind::kFrame, self_, {frame.begin(), frame.end()}});
  }
  [[nodiscard]] std::optional<Arrival> receive(std::int64_t timeout_ms) {
    return network_->take(self_, timeout_ms);
  }

 private:
  std::shared_ptr<InProcessNetwork> network_;
  std::string self_;
};

static_assert(Transport<InProcessTransport>);

}  // namespace offsite
