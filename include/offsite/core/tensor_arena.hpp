#pragma once
#include <c10/core/CPUAllocator.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <mutex>

namespace offsite {

/// LibTorch's allocator of CPU tensors for programs that do the same thing many times, as training steps do.
///
/// Large tensors lie in one reserved range of addresses, each in the lowest gap that holds it (first fit by address).
/// So what a step frees, the next one takes again, whatever the lengths of its sequences: no page faults, and the
/// range grows little beyond the most that was in use at once. Freed memory stays with the process until `trim`.
/// Allocating and freeing take O(gaps), of which there are few.
class TensorArena : public c10::Allocator {
 public:
  struct Figures {
    std::size_t in_use = 0;  ///< bytes of large tensors alive
    std::size_t reached =
        0;  ///< bytes from the range's beginning to the highest that was ever used since `trim`
  };

  /// Makes it LibTorch's allocator of CPU tensors, for the rest of the process: for programs to call at their start; a
  /// library must not do that by itself. Tensors that exist stay where they are. A second call changes nothing.
  /// \returns false where no range can be reserved; then nothing changes
  static bool install() { return instance().base_ != nullptr; }

  [[nodiscard]] static Figures figures() {
    auto& self = instance();
    const std::lock_guard lock(self.mutex_);
    return {self.in_use_, self.reached_};
  }

  /// Gives the pages of all gaps back to the system.
  static void trim() {
    auto& self = instance();
    const std::lock_guard lock(self.mutex_);
    for (const auto& [begin, size] : self.gaps_) madvise(self.base_ + begin, size, MADV_DONTNEED);
    if (const auto last = self.gaps_.rbegin();
        last != self.gaps_.rend() && last->first + last->second == self.reached_) {
      self.reached_ = last->first;
      self.gaps_.erase(last->first);
    }
  }

  c10::DataPtr allocate(std::size_t bytes) override {
    void* data = bytes < kSmall ? nullptr : take(bytes);
    if (data == nullptr) data = plain_->raw_allocate(bytes);
    return {data, data, &release, c10::Device(c10::DeviceType::CPU)};
  }
  [[nodiscard]] c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

 private:
  static constexpr std::size_t kSmall = 64 << 10, kPage = 4096;  // below kSmall the C library does as well

  TensorArena() {
    const auto memory =
        static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    room_ = memory / kPage * kPage * 2;  // addresses only: pages come when they are written to
    void* range =
        mmap(nullptr, room_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED) return;
    base_ = static_cast<std::byte*>(range);
    madvise(base_, room_,
            MADV_HUGEPAGE);  // fewer faults, fewer misses of address translation; ignored where unknown
    c10::SetCPUAllocator(this);
  }
  static TensorArena& instance() {
    static auto* arena = new TensorArena;  // never destroyed: tensors may outlive every static
    return *arena;
  }

  /// Null if the range has no room left.
  void* take(std::size_t bytes) {
    const auto size = (bytes + kPage - 1) / kPage * kPage;
    const std::lock_guard lock(mutex_);
    auto gap = gaps_.begin();
    while (gap != gaps_.end() && gap->second < size) ++gap;
    std::size_t begin = reached_;
    if (gap != gaps_.end()) {
      begin = gap->first;
      const auto rest = gap->second - size;
      gaps_.erase(gap);
      if (rest > 0) gaps_.emplace(begin + size, rest);
    } else {
      // A gap that ends where the range does is made larger instead of being passed over.
      if (const auto last = gaps_.rbegin(); last != gaps_.rend() && last->first + last->second == reached_)
        begin = last->first;
      if (room_ - begin < size) return nullptr;
      gaps_.erase(begin);
      reached_ = begin + size;
    }
    used_.emplace(begin, size);
    in_use_ += size;
    return base_ + begin;
  }

  void put_back(std::size_t begin) {
    const std::lock_guard lock(mutex_);
    const auto taken = used_.find(begin);
    auto size = taken->second;
    used_.erase(taken);
    in_use_ -= size;
    auto next = gaps_.lower_bound(begin);
    if (next != gaps_.end() && begin + size == next->first) {
      size += next->second;
      next = gaps_.erase(next);
    }
    if (next != gaps_.begin()) {
      const auto before = std::prev(next);
      if (before->first + before->second == begin) {
        before->second += size;
        return;
      }
    }
    gaps_.emplace(begin, size);
  }

  static void release(void* data) {
    if (data == nullptr) return;
    auto& self = instance();
    const auto* at = static_cast<std::byte*>(data);
    if (self.base_ <= at && at < self.base_ + self.room_)
      self.put_back(static_cast<std::size_t>(at - self.base_));
    else
      self.plain_->raw_deallocate(data);
  }

  c10::Allocator* plain_ = c10::GetDefaultCPUAllocator();
  std::byte* base_ = nullptr;
  std::size_t room_ = 0, reached_ = 0, in_use_ = 0;
  std::map<std::size_t, std::size_t> gaps_, used_;  // begin -> size; neighbouring gaps are joined
  std::mutex mutex_;
};

}  // namespace offsite
