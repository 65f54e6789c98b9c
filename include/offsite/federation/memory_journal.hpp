#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/federation/journal.hpp"
#include "offsite/io/safetensors_header.hpp"
#include "offsite/io/sha256.hpp"

namespace offsite::federation {

/// A journal that lives as long as the object: for federations in one process, and for tests.
class MemoryJournal {
 public:
  [[nodiscard]] std::vector<Record> records() const { return records_; }
  void append(const Record& record) { records_.push_back(record); }

  [[nodiscard]] bool contains(std::string_view sha256) const { return blobs_.find(sha256) != blobs_.end(); }
  Blob put(std::span<const std::byte> bytes) {
    Blob blob{sha256_hex(bytes), bytes.size()};
    if (!contains(blob.sha256)) keep(blob.sha256, {bytes.begin(), bytes.end()});
    return blob;
  }
  /// \throws ProtocolError if there is no such blob.
  [[nodiscard]] BlobView view(std::string_view sha256) const {
    const auto found = blobs_.find(sha256);
    require<ProtocolError>(found != blobs_.end(), "the journal holds no blob {}", sha256);
    return {*found->second, found->second};
  }
  void drop(std::string_view sha256) {
    if (const auto found = blobs_.find(sha256); found != blobs_.end()) blobs_.erase(found);
  }

  [[nodiscard]] std::uint64_t open_part(std::string_view peer, const Blob& blob) const {
    const auto found = parts_.find({std::string(peer), blob.sha256});
    return found == parts_.end() || found->second.size() > blob.bytes ? 0 : found->second.size();
  }
  void write_part(std::string_view peer, const Blob& blob, std::uint64_t offset,
                  std::span<const std::byte> bytes) {
    auto& part = parts_[{std::string(peer), blob.sha256}];
    require(offset <= part.size(), "a part of {} bytes is to go on at byte {}", part.size(), offset);
    part.resize(offset);
    part.insert(part.end(), bytes.begin(), bytes.end());
  }
  bool finish_part(std::string_view peer, const Blob& blob) {
    const auto found = parts_.find({std::string(peer), blob.sha256});
    if (found == parts_.end()) return false;
    auto bytes = std::move(found->second);
    parts_.erase(found);
    if (bytes.size() != blob.bytes || sha256_hex(bytes) != blob.sha256) return false;
    keep(blob.sha256, std::move(bytes));
    return true;
  }
  void drop_part(std::string_view peer, const Blob& blob) { parts_.erase({std::string(peer), blob.sha256}); }

  /// Bytes of all blobs and parts.
  [[nodiscard]] std::uint64_t size() const {
    std::uint64_t sum = 0;
    for (const auto& [name, bytes] : blobs_) sum += bytes->size();
    for (const auto& [name, bytes] : parts_) sum += bytes.size();
    return sum;
  }

 private:
  void keep(const std::string& sha256, std::vector<std::byte> bytes) {
    blobs_[sha256] = std::make_shared<const std::vector<std::byte>>(std::move(bytes));
  }

  std::vector<Record> records_;
  std::map<std::string, std::shared_ptr<const std::vector<std::byte>>, std::less<>> blobs_;
  std::map<std::pair<std::string, std::string>, std::vector<std::byte>> parts_;  // by peer and hash
};

static_assert(Journal<MemoryJournal>);

}  // namespace offsite::federation
