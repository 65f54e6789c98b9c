#pragma once
#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>
#include <utility>
#include <vector>

namespace offsite::federation {

/// Bytes that are to be sent, and what keeps them in memory until they are.
struct SharedBytes {
  std::span<const std::byte> bytes;
  std::shared_ptr<const void> owner;
};

/// A chunk's bytes: those from a place in some memory to its end, so that they need not be moved out of the message that
/// they came in.
class ChunkBytes {
 public:
  ChunkBytes() = default;
  ChunkBytes(std::vector<std::byte> bytes) : memory_(std::move(bytes)) {}  // NOLINT: a vector is such bytes
  /// \param begin  at most the memory's size
  ChunkBytes(std::vector<std::byte> memory, std::size_t begin)
      : memory_(std::move(memory)), begin_(std::min(begin, memory_.size())) {}

  ChunkBytes(const ChunkBytes&) = default;
  ChunkBytes& operator=(const ChunkBytes&) = default;
  ChunkBytes(ChunkBytes&& other) noexcept
      : memory_(std::exchange(other.memory_, {})), begin_(std::exchange(other.begin_, 0)) {}
  ChunkBytes& operator=(ChunkBytes&& other) noexcept {
    memory_ = std::exchange(other.memory_, {});
    begin_ = std::exchange(other.begin_, 0);
    return *this;
  }
  ~ChunkBytes() = default;

  [[nodiscard]] std::span<const std::byte> span() const { return std::span(memory_).subspan(begin_); }
  [[nodiscard]] const std::byte* data() const { return memory_.data() + begin_; }
  [[nodiscard]] std::size_t size() const { return memory_.size() - begin_; }
  [[nodiscard]] bool empty() const { return size() == 0; }
  [[nodiscard]] auto begin() const { return memory_.begin() + static_cast<std::ptrdiff_t>(begin_); }
  [[nodiscard]] auto end() const { return memory_.end(); }

  bool operator==(const ChunkBytes& other) const { return std::ranges::equal(span(), other.span()); }

 private:
  std::vector<std::byte> memory_;
  std::size_t begin_ = 0;
};

}  // namespace offsite::federation
