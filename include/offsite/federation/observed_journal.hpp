#pragma once
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "offsite/federation/chunk_bytes.hpp"
#include "offsite/federation/journal.hpp"
#include "offsite/federation/memory_journal.hpp"

namespace offsite::federation {

/// A journal that tells `observer(record)` of each record once it is kept, and `observer.received(peer, blob, bytes)`, if there
/// is one, of the bytes of a blob that have come: for reports while a run goes on.
template <Journal J, class Observer>
class ObservedJournal {
 public:
  ObservedJournal(J& journal, Observer observer) : journal_(&journal), observer_(std::move(observer)) {}

  [[nodiscard]] std::vector<Record> records() { return journal_->records(); }
  void append(const Record& record) {
    journal_->append(record);
    observer_(record);
  }
  [[nodiscard]] bool contains(std::string_view sha256) { return journal_->contains(sha256); }
  Blob put(std::span<const std::byte> bytes) { return journal_->put(bytes); }
  [[nodiscard]] BlobView view(std::string_view sha256) { return journal_->view(sha256); }
  void drop(std::string_view sha256) { journal_->drop(sha256); }
  [[nodiscard]] std::uint64_t open_part(std::string_view peer, const Blob& blob) {
    return journal_->open_part(peer, blob);
  }
  void write_part(std::string_view peer, const Blob& blob, std::uint64_t offset,
                  std::span<const std::byte> bytes) {
    journal_->write_part(peer, blob, offset, bytes);
    tell(peer, blob, offset + bytes.size());
  }
  /// The same for journals that take the bytes over.
  void write_part(std::string_view peer, const Blob& blob, std::uint64_t offset,
                  std::same_as<ChunkBytes> auto&& bytes) {
    const auto size = bytes.size();
    journal_->write_part(peer, blob, offset, std::move(bytes));
    tell(peer, blob, offset + size);
  }
  bool finish_part(std::string_view peer, const Blob& blob) { return journal_->finish_part(peer, blob); }
  void drop_part(std::string_view peer, const Blob& blob) { journal_->drop_part(peer, blob); }

 private:
  void tell(std::string_view peer, const Blob& blob, std::uint64_t have) {
    if constexpr (requires { observer_.received(peer, blob, have); }) observer_.received(peer, blob, have);
  }

  J* journal_;
  Observer observer_;
};

/// A client's journal beside its owner's in one process: what the owner has need not be sent, and is never dropped.
template <Journal J>
class SharingJournal {
 public:
  explicit SharingJournal(J& owner) : owner_(&owner) {}

  [[nodiscard]] std::vector<Record> records() const { return own_.records(); }
  void append(const Record& record) { own_.append(record); }
  [[nodiscard]] bool contains(std::string_view sha256) {
    return own_.contains(sha256) || owner_->contains(sha256);
  }
  Blob put(std::span<const std::byte> bytes) { return own_.put(bytes); }
  [[nodiscard]] BlobView view(std::string_view sha256) {
    return own_.contains(sha256) ? own_.view(sha256) : owner_->view(sha256);
  }
  void drop(std::string_view sha256) { own_.drop(sha256); }
  [[nodiscard]] std::uint64_t open_part(std::string_view peer, const Blob& blob) const {
    return own_.open_part(peer, blob);
  }
  void write_part(std::string_view peer, const Blob& blob, std::uint64_t offset,
                  std::span<const std::byte> bytes) {
    own_.write_part(peer, blob, offset, bytes);
  }
  bool finish_part(std::string_view peer, const Blob& blob) { return own_.finish_part(peer, blob); }
  void drop_part(std::string_view peer, const Blob& blob) { own_.drop_part(peer, blob); }

 private:
  J* owner_;
  MemoryJournal own_;
};

static_assert(Journal<SharingJournal<MemoryJournal>>);

}  // namespace offsite::federation
