#pragma once
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "offsite/federation/blob.hpp"
#include "offsite/io/json_value.hpp"

namespace offsite::federation {

/// Something that happened and must be remembered: an owner's or a client's state is the sum of its records.
struct Record {
  std::string kind;
  Json fields = Json::object();

  bool operator==(const Record&) const = default;
};

/// A blob's bytes, and what keeps them in memory.
struct BlobView {
  std::span<const std::byte> bytes;
  std::shared_ptr<const void> owner;
  /// Of its numbers, if it was seen as it came; means something if it is a safetensors file of float32 (see `FileSquares`).
  std::optional<double> squares{};
};

namespace detail {

// clang-format off: compilers print a requirement's own line, so its remedy stays on it
template <class J>
concept KeepsRecords = requires(J& journal, const Record& record) {
  { journal.records() } -> std::same_as<std::vector<Record>>;  // std::vector<Record> records(): in the order they were appended
  { journal.append(record) } -> std::same_as<void>;  // void append(const Record&): on the disk when it returns, or throws
};
template <class J>
concept KeepsBlobs = requires(J& journal, std::span<const std::byte> bytes, std::string_view sha256,
                              std::uint64_t n) {
  { journal.contains(sha256) } -> std::same_as<bool>;  // bool contains(std::string_view sha256)
  { journal.put(bytes) } -> std::same_as<Blob>;  // Blob put(std::span<const std::byte>): on the disk when it returns
  { journal.view(sha256) } -> std::same_as<BlobView>;  // BlobView view(std::string_view sha256)
  { journal.drop(sha256) } -> std::same_as<void>;      // void drop(std::string_view sha256)
};
template <class J>
concept ReceivesBlobs = requires(J& journal, std::string_view peer, const Blob& blob, std::uint64_t n,
                                 std::span<const std::byte> bytes) {
  { journal.open_part(peer, blob) } -> std::same_as<std::uint64_t>;  // std::uint64_t open_part(std::string_view peer, const Blob&): bytes that are there
  { journal.write_part(peer, blob, n, bytes) } -> std::same_as<void>;  // void write_part(std::string_view peer, const Blob&, std::uint64_t offset, std::span<const std::byte>)
  { journal.finish_part(peer, blob) } -> std::same_as<bool>;  // bool finish_part(std::string_view peer, const Blob&): whether the hash fits
  { journal.drop_part(peer, blob) } -> std::same_as<void>;  // void drop_part(std::string_view peer, const Blob&)
};
// clang-format on

}  // namespace detail

/// Where a machine's records and the blobs it needs are kept, so that a process that is killed at any instant goes on
/// where it was.
///
///   `j.records()`                           all records, in the order they were appended
///   `j.append(r)`                           durable when it returns
///   `j.contains(h)`, `j.view(h)`            a blob by its SHA-256; `view` throws ProtocolError if it is not there
///   `j.put(bytes)`                          a blob of these bytes, durable when it returns
///   `j.drop(h)`                             forgets a blob; nothing happens if it is not there
///   `j.open_part(peer, b)`                  bytes of `b` received from `peer` so far, from the beginning
///   `j.write_part(peer, b, offset, bytes)`  `offset` is what is there; need not be durable
///   `j.finish_part(peer, b)`                all bytes are there: if they have `b`'s hash they are a blob, durable when it
///                                           returns; else they are gone and the result is false
///   `j.drop_part(peer, b)`                  forgets what came of `b` from `peer`
///
/// Semantic requirements: each call happens wholly or not at all if the process dies in it, save that of unfinished
/// parts any may be lost or damaged (the hash finds that). A call that cannot be done throws `offsite::Error` with the reason, e.g. a full disk.
template <class J>
concept Journal = detail::KeepsRecords<J> && detail::KeepsBlobs<J> && detail::ReceivesBlobs<J>;

}  // namespace offsite::federation
