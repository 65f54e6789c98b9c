#pragma once
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <span>
#include <string_view>
#include <utility>

#include "offsite/core/error.hpp"

namespace offsite {

/// A regular file's bytes in memory, read by the system when they are touched.
///
/// The pages are private and writable: a stray write in place changes neither the file nor crashes. A file
/// that is replaced (as our writers do) stays as it was here; one that another program shortens meanwhile
/// does not, and touching the lost pages ends the process. Move-only.
class MappedFile {
 public:
  /// \throws ArgumentError if the file cannot be read or is not a regular one.
  explicit MappedFile(const std::filesystem::path& path) {
    // O_NONBLOCK: opening a pipe must be refused, not wait for its other end.
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    require(file >= 0, "cannot read {}: {}", path.string(), std::strerror(errno));
    struct ::stat facts {};
    if (::fstat(file, &facts) != 0 || !S_ISREG(facts.st_mode)) {
      ::close(file);
      throw ArgumentError(formatted("cannot read {}: it is {}", path.string(),
                                    S_ISDIR(facts.st_mode) ? "a folder" : "not a regular file"));
    }
    size_ = static_cast<std::size_t>(facts.st_size);
    if (size_ > 0) {  // a mapping of length 0 is an error
      // MAP_NORESERVE: a private writable mapping otherwise counts as memory, and a large model would be
      // refused.
      void* const data = ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, file, 0);
      const int reason = errno;
      if (data == MAP_FAILED) {
        ::close(file);
        throw ArgumentError(
            formatted("cannot map {} of {} bytes: {}", path.string(), size_, std::strerror(reason)));
      }
      data_ = static_cast<std::byte*>(data);
    }
    ::close(file);
  }

  MappedFile(MappedFile&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~MappedFile() {
    if (data_) ::munmap(data_, size_);
  }

  [[nodiscard]] std::span<const std::byte> bytes() const { return {data_, size_}; }
  [[nodiscard]] std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }
  [[nodiscard]] std::uint64_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace offsite
