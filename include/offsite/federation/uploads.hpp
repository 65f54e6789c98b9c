#pragma once
#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "offsite/federation/downloads.hpp"
#include "offsite/federation/events.hpp"
#include "offsite/federation/messages.hpp"

namespace offsite::federation {

/// Updates that an owner fetches from its clients and then has checked, one of each client at a time.
class Uploads {
 public:
  /// One that is under way.
  struct Upload {
    UpdateReady offer;
    bool checking = false;  ///< all of it is there
  };

  /// Whether just these bytes of that client are.
  [[nodiscard]] bool is_under_way(const std::string& name, const Blob& update) const {
    const auto found = uploads_.find(name);
    return found != uploads_.end() && found->second.offer.update == update;
  }
  /// Fetches an update. Nothing else of this client may be under way.
  void begin(const std::string& name, const UpdateReady& offer, const Timing& timing, std::int64_t now,
             Actions& out) {
    // Sent in full even if the owner has these bytes: naming a hash does not prove that one has trained.
    uploads_[name] = {{offer}, Downloads(name, {offer.update}, false, timing, now, out)};
  }
  /// Forgets a client's upload. \returns what it was, if there was one
  std::optional<Upload> take(const std::string& name) {
    const auto node = uploads_.extract(name);
    return node.empty() ? std::nullopt : std::optional<Upload>(node.mapped());
  }
  /// The same for any client: nothing if no upload is left.
  [[nodiscard]] std::optional<std::pair<std::string, Upload>> take_first() {
    if (uploads_.empty()) return std::nullopt;
    const auto name = uploads_.begin()->first;
    return std::pair(name, *take(name));
  }
  /// The offer that this answer is about, which is under way no longer; none if that was given up meanwhile.
  [[nodiscard]] std::optional<UpdateReady> take_checked(const Checked& answer) {
    const auto found = uploads_.find(answer.peer);
    if (found == uploads_.end() || !found->second.checking ||
        found->second.offer.update.sha256 != answer.sha256)
      return std::nullopt;
    return take(answer.peer)->offer;
  }
  /// Whether a blob is being checked.
  [[nodiscard]] bool checks(const std::string& sha256) const {
    return std::any_of(uploads_.begin(), uploads_.end(), [&](const auto& entry) {
      return entry.second.checking && entry.second.offer.update.sha256 == sha256;
    });
  }

  void tick(const std::string& name, std::int64_t now, Actions& out) {
    if (auto* upload = fetched(name)) upload->download.tick(now, out);
  }
  void handle(const std::string& name, Chunk& chunk, std::int64_t now, Actions& out) {
    if (auto* upload = fetched(name)) upload->download.handle(chunk, now, out);
  }
  void handle(const PartOpened& event, Actions& out) {
    if (auto* upload = fetched(event.peer)) upload->download.handle(event, out);
  }
  /// Has a whole update checked. \returns false if its bytes are not what was announced, again and again
  [[nodiscard]] bool handle(const PartFinished& event, Actions& out) {
    auto* upload = fetched(event.peer);
    if (upload == nullptr) return true;
    upload->download.handle(event, out);
    if (upload->download.broken() != nullptr) return false;
    if (upload->download.complete()) {
      upload->checking = true;
      out.push_back(CheckUpdate{event.peer, upload->offer.update.sha256});
    }
    return true;
  }

 private:
  struct Fetched : Upload {
    Downloads download;
  };
  [[nodiscard]] Fetched* fetched(const std::string& name) {
    const auto found = uploads_.find(name);
    return found == uploads_.end() || found->second.checking ? nullptr : &found->second;
  }

  std::map<std::string, Fetched> uploads_;  // by client
};

}  // namespace offsite::federation
