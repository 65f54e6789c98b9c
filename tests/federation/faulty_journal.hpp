#pragma once
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "offsite/core/random.hpp"
#include "offsite/federation/memory_journal.hpp"

/// A journal whose process dies in a write, whose disk fills up, and whose unfinished parts a crash damages.
class FaultyJournal {
 public:
  struct Crash {};  ///< the process is gone

  explicit FaultyJournal(std::uint64_t key) : random_(key) {}

  double crash_chance = 0;  ///< of each write
  bool full = false;        ///< nothing can be written

  [[nodiscard]] std::vector<offsite::federation::Record> records() const { return disk_.records(); }
  void append(const offsite::federation::Record& record) {
    write([&] { disk_.append(record); });
  }
  [[nodiscard]] bool contains(std::string_view sha256) const { return disk_.contains(sha256); }
  offsite::federation::Blob put(std::span<const std::byte> bytes) {
    offsite::federation::Blob blob;
    write([&] { blob = disk_.put(bytes); });
    return blob;
  }
  [[nodiscard]] offsite::federation::BlobView view(std::string_view sha256) const {
    return disk_.view(sha256);
  }
  void drop(std::string_view sha256) {
    write([&] { disk_.drop(sha256); });
  }
  [[nodiscard]] std::uint64_t open_part(std::string_view peer, const offsite::federation::Blob& blob) const {
    return disk_.open_part(peer, blob);
  }
  void write_part(std::string_view peer, const offsite::federation::Blob& blob, std::uint64_t offset,
                  std::span<const std::byte> bytes) {
    check_space();
    if (chance()) {  // torn: some of it, and not what it was
      auto torn = std::vector<std::byte>(
          bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(random_.below(bytes.size())));
      if (!torn.empty() && random_.below(2) == 0) torn[random_.below(torn.size())] ^= std::byte{0x10};
      disk_.write_part(peer, blob, offset, torn);
      throw Crash{};
    }
    disk_.write_part(peer, blob, offset, bytes);
  }
  bool finish_part(std::string_view peer, const offsite::federation::Blob& blob) {
    bool good = false;
    write([&] { good = disk_.finish_part(peer, blob); });
    return good;
  }
  void drop_part(std::string_view peer, const offsite::federation::Blob& blob) {
    write([&] { disk_.drop_part(peer, blob); });
  }
  [[nodiscard]] std::uint64_t size() const { return disk_.size(); }

 private:
  bool chance() { return crash_chance > 0 && random_.uniform() < crash_chance; }
  void check_space() const { offsite::require(!full, "cannot write the journal: no space left on device"); }
  template <class Change>
  void write(Change&& change) {
    check_space();
    if (chance()) {
      if (random_.below(2) == 0) change();
      throw Crash{};
    }
    change();
  }

  offsite::federation::MemoryJournal disk_;
  offsite::RandomStream random_;
};

static_assert(offsite::federation::Journal<FaultyJournal>);
