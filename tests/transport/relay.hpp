#pragma once
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <utility>
#include <vector>

/// Hands bytes on between whoever connects and a port of this machine, until it is told to be silent: then connections
/// stay open, and nothing passes.
class Relay {
 public:
  explicit Relay(int target) : target_(target), listener_(::socket(AF_INET, SOCK_STREAM, 0)) {
    auto address = loopback(0);
    socklen_t size = sizeof address;
    if (::bind(listener_, reinterpret_cast<sockaddr*>(&address), size) == 0 && ::listen(listener_, 16) == 0 &&
        ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size) == 0)
      port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { run(); });
  }
  Relay(const Relay&) = delete;
  Relay& operator=(const Relay&) = delete;
  ~Relay() {
    over_ = true;
    thread_.join();
    ::close(listener_);
    for (const auto& [first, second] : pairs_) ::close(first), ::close(second);
  }
  [[nodiscard]] int port() const { return port_; }
  void freeze() { frozen_ = true; }

 private:
  static sockaddr_in loopback(int port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    return address;
  }
  void run() {
    while (!over_) {
      std::vector<pollfd> waits{{listener_, POLLIN, 0}};
      for (const auto& [first, second] : pairs_) {
        waits.push_back({first, POLLIN, 0});
        waits.push_back({second, POLLIN, 0});
      }
      ::poll(waits.data(), waits.size(), 20);
      if (frozen_) {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        continue;
      }
      for (std::size_t i = 1; i < waits.size(); ++i)
        if (waits[i].revents != 0) pass(waits[i].fd, waits[i % 2 == 1 ? i + 1 : i - 1].fd);
      if (waits[0].revents == 0) continue;
      const int incoming = ::accept(listener_, nullptr, nullptr),
                outgoing = ::socket(AF_INET, SOCK_STREAM, 0);
      const auto address = loopback(target_);
      if (::connect(outgoing, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0)
        pairs_.emplace_back(incoming, outgoing);
    }
  }
  static void pass(int from, int to) {
    std::array<char, 65536> bytes{};
    const auto size = ::recv(from, bytes.data(), bytes.size(), 0);
    if (size <= 0) ::shutdown(to, SHUT_WR);
    for (ssize_t at = 0; at < size;) {
      const auto sent = ::send(to, bytes.data() + at, static_cast<std::size_t>(size - at), MSG_NOSIGNAL);
      if (sent <= 0) return;
      at += sent;
    }
  }

  int target_, listener_, port_ = 0;
  std::atomic<bool> frozen_{false}, over_{false};
  std::vector<std::pair<int, int>> pairs_;
  std::thread thread_;
};
