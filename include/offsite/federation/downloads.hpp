#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "offsite/federation/events.hpp"
#include "offsite/federation/messages.hpp"

namespace offsite::federation {

/// Fetches blobs from one peer: asks for what is not there, at most a window ahead; takes bytes in their order only;
/// asks again when nothing came for a while. A cut costs what was under way, no more.
class Downloads {
 public:
  Downloads() = default;
  /// \param reuse  blobs that are in the journal already need not be fetched
  Downloads(std::string peer, std::vector<Blob> blobs, bool reuse, const Timing& timing, std::int64_t now,
            Actions& out)
      : peer_(std::move(peer)), timing_(timing), reuse_(reuse) {
    for (auto& blob : blobs) {
      const auto same = [&](const Item& item) { return item.blob == blob; };
      if (std::none_of(items_.begin(), items_.end(), same)) items_.push_back({std::move(blob)});
    }
    for (auto& item : items_) out.push_back(OpenPart{peer_, item.blob, reuse_});
    heard_ = now;
  }

  /// Everything is there.
  [[nodiscard]] bool complete() const {
    return std::all_of(items_.begin(), items_.end(),
                       [](const Item& item) { return item.stage == Stage::kDone; });
  }
  /// A blob whose bytes had another hash again and again; null if there is none.
  [[nodiscard]] const Blob* broken() const {
    const auto found =
        std::find_if(items_.begin(), items_.end(), [](const Item& i) { return i.failures >= 2; });
    return found == items_.end() ? nullptr : &found->blob;
  }
  [[nodiscard]] bool fetches(const std::string& sha256) const {
    return std::any_of(items_.begin(), items_.end(),
                       [&](const Item& item) { return item.blob.sha256 == sha256; });
  }
  [[nodiscard]] std::uint64_t bytes_wanted() const {
    std::uint64_t sum = 0;
    for (const auto& item : items_) sum += item.blob.bytes;
    return sum;
  }
  [[nodiscard]] std::uint64_t bytes_here() const {
    std::uint64_t sum = 0;
    for (const auto& item : items_) sum += item.stage == Stage::kDone ? item.blob.bytes : item.have;
    return sum;
  }

  void handle(const PartOpened& event, Actions& out) {
    auto* item = find(event.blob);
    if (item == nullptr || item->stage != Stage::kOpening) return;
    if (event.complete) {
      item->stage = Stage::kDone;
    } else {
      item->stage = Stage::kPulling;
      item->have = item->asked = event.have;
      finish_if_full(*item, out);
    }
    ask(out);
  }
  void handle(const PartFinished& event, Actions& out) {
    auto* item = find(event.blob);
    if (item == nullptr || item->stage != Stage::kFinishing) return;
    if (event.good) {
      item->stage = Stage::kDone;
    } else {  // once may be our own disk's fault: a part that a crash damaged
      ++item->failures;
      item->have = item->asked = 0;
      item->stage = Stage::kPulling;
    }
    if (broken() == nullptr) ask(out);
  }
  void handle(Chunk& chunk, std::int64_t now, Actions& out) {
    const auto found = std::find_if(items_.begin(), items_.end(), [&](const Item& item) {
      return item.blob.sha256 == chunk.sha256 && item.stage == Stage::kPulling;
    });
    if (found == items_.end()) return;
    auto& item = *found;
    // What comes out of order is asked for again: on one connection nothing does.
    if (chunk.offset != item.have || chunk.bytes.size() > item.blob.bytes - item.have) return;
    heard_ = now;
    const auto size = chunk.bytes.size();
    out.push_back(WritePart{peer_, item.blob, item.have, std::move(chunk.bytes)});
    item.have += size;
    item.asked = std::max(item.asked, item.have);
    finish_if_full(item, out);
    ask(out);
  }
  void tick(std::int64_t now, Actions& out) {
    if (now - heard_ < timing_.retry_ms) return;
    heard_ = now;
    for (auto& item : items_) item.asked = item.have;
    if (broken() == nullptr) ask(out);
  }

 private:
  enum class Stage { kOpening, kPulling, kFinishing, kDone };
  struct Item {
    Blob blob;
    Stage stage = Stage::kOpening;
    std::uint64_t have = 0;   // received
    std::uint64_t asked = 0;  // asked for, >= have
    int failures = 0;
  };

  [[nodiscard]] Item* find(const Blob& blob) {
    const auto found =
        std::find_if(items_.begin(), items_.end(), [&](const Item& i) { return i.blob == blob; });
    return found == items_.end() ? nullptr : &*found;
  }
  void finish_if_full(Item& item, Actions& out) {
    if (item.have < item.blob.bytes) return;
    item.stage = Stage::kFinishing;
    out.push_back(FinishPart{peer_, item.blob});
  }
  void ask(Actions& out) {
    std::uint64_t under_way = 0;
    for (const auto& item : items_)
      if (item.stage == Stage::kPulling) under_way += item.asked - item.have;
    for (auto& item : items_) {
      while (item.stage == Stage::kPulling && item.asked < item.blob.bytes) {
        const auto size = std::min(timing_.chunk_bytes, item.blob.bytes - item.asked);
        if (under_way > 0 && under_way + size > timing_.window_bytes) return;
        out.push_back(Send{peer_, Want{item.blob.sha256, item.asked, size}});
        item.asked += size;
        under_way += size;
      }
    }
  }

  std::string peer_;
  Timing timing_;
  bool reuse_ = true;
  std::vector<Item> items_;
  std::int64_t heard_ = 0;
};

}  // namespace offsite::federation
