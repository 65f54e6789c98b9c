#pragma once
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/federation/blob.hpp"
#include "offsite/io/atomic_file.hpp"
#include "offsite/io/mapped_file.hpp"
#include "offsite/transport/transport.hpp"

namespace offsite {

/// Messages as files, for people who move them by hand or share a folder: from A to B they lie in `A-to-B/`, named so
/// that their names' order is theirs. A file is removed once it was read. Moving one twice, or in another order, does no
/// harm; nothing tells who wrote one, so who can write into `A-to-B/` is A.
class DirectoryTransport {
 public:
  /// \throws ArgumentError unless `self` can name a client or is "owner".
  DirectoryTransport(std::filesystem::path folder, std::string self)
      : folder_(std::move(folder)), self_(std::move(self)) {
    require(federation::is_client_name(self_),
            "'{}' cannot name an end: 1 to 64 letters, digits, '.', '_', '-'", self_);
  }

  /// \throws ArgumentError if the file cannot be written.
  void send(std::string_view peer, std::span<const std::byte> frame) {
    require(federation::is_client_name(peer), "'{}' cannot name an end", peer);
    const auto place = folder_ / (self_ + "-to-" + std::string(peer));
    std::error_code error;
    std::filesystem::create_directories(place, error);
    require(!error, "cannot make the folder {}: {}", place.string(), error.message());
    const auto now = std::chrono::system_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
    last_ = std::max<std::int64_t>(last_ + 1, now);  // a clock that goes back must not change the order
    auto number = std::to_string(last_);
    number.insert(0, 20 - number.size(), '0');
    write_file_atomically(place / (number + std::string(kSuffix)), std::span(&frame, 1));
  }

  /// Files that cannot be messages are set aside: they get the suffix `.refused`.
  [[nodiscard]] std::optional<Arrival> receive(std::int64_t timeout_ms) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
    for (;;) {
      if (waiting_.empty()) look();
      while (!waiting_.empty()) {
        const auto [peer, path] = std::move(waiting_.back());
        waiting_.pop_back();
        if (auto frame = read(path)) return Arrival{Arrival::Kind::kFrame, peer, *std::move(frame)};
      }
      const auto now = std::chrono::steady_clock::now();
      if (now >= until) return std::nullopt;
      std::this_thread::sleep_for(
          std::min<std::chrono::nanoseconds>(until - now, std::chrono::milliseconds(50)));
    }
  }

 private:
  static constexpr std::string_view kSuffix = ".message";

  /// Lists what is there, the last first.
  void look() {
    const auto ending = "-to-" + self_;
    std::error_code error;
    for (const auto& place : std::filesystem::directory_iterator(folder_, error)) {
      const auto name = place.path().filename().string();
      if (name.size() <= ending.size() || !name.ends_with(ending)) continue;
      const auto peer = name.substr(0, name.size() - ending.size());
      if (!federation::is_client_name(peer)) continue;
      for (const auto& file : std::filesystem::directory_iterator(place.path(), error))
        if (file.path().extension() == kSuffix) waiting_.emplace_back(peer, file.path());
    }
    std::sort(waiting_.begin(), waiting_.end(),
              [](const auto& a, const auto& b) { return a.second.filename() > b.second.filename(); });
  }

  [[nodiscard]] static std::optional<std::vector<std::byte>> read(const std::filesystem::path& path) {
    std::error_code error;
    const auto size = std::filesystem::file_size(path, error);
    if (error) return std::nullopt;  // somebody else took it
    if (size > kMostFrame) {
      auto refused = path;
      std::filesystem::rename(path, refused += ".refused", error);
      return std::nullopt;
    }
    const MappedFile file(path);
    const auto bytes = file.bytes();
    std::vector<std::byte> frame(bytes.begin(), bytes.end());
    std::filesystem::remove(path, error);
    return frame;
  }

  std::filesystem::path folder_;
  std::string self_;
  std::int64_t last_ = 0;
  std::vector<std::pair<std::string, std::filesystem::path>> waiting_;
};

static_assert(Transport<DirectoryTransport>);

}  // namespace offsite
