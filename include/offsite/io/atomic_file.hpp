#pragma once
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "offsite/core/error.hpp"

namespace offsite {

namespace detail {

/// A name beside `path` that no other call uses; short, so that it fits where `path` fits.
[[nodiscard]] inline std::filesystem::path temporary_sibling(const std::filesystem::path& path) {
  static std::atomic<std::uint64_t> count = 0;
  // The time too: in containers a process often has the number of an earlier one that may have left its file
  // behind.
  const auto now = std::chrono::system_clock::now().time_since_epoch().count();
  return path.parent_path() / formatted(".offsite-{:x}-{}-{}.tmp", now, ::getpid(), count++);
}

/// Makes what was created, renamed or removed in a folder survive a power cut. Best effort: some file systems
/// refuse to sync folders.
inline void sync_folder(const std::filesystem::path& folder) {
  const int file = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (file < 0) return;
  ::fsync(file);
  ::close(file);
}

/// A file being written; closed with the object, and removed too unless `keep` was called.
class OutputFile {
 public:
  OutputFile(std::filesystem::path path, int flags, std::string target, std::uint64_t wanted)
      : path_(std::move(path)),
        target_(std::move(target)),
        wanted_(wanted),
        remove_((flags & O_EXCL) != 0),
        file_(::open(path_.c_str(), flags | O_WRONLY | O_CLOEXEC, 0666)) {
    if (file_ < 0) fail(errno);
  }
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;
  ~OutputFile() {
    if (file_ >= 0) ::close(file_);
    if (remove_) ::unlink(path_.c_str());
  }

  [[noreturn]] void fail(int reason) const {
    throw ArgumentError(
        formatted("cannot write {} ({} bytes wanted): {}", target_, wanted_, std::strerror(reason)));
  }

  /// Asks the system for the space beforehand, so that a disk that is too full says so at once.
  void reserve() const {
    while (wanted_ > 0 && ::fallocate(file_, 0, 0, static_cast<off_t>(wanted_)) != 0) {
      if (errno == ENOSPC || errno == EDQUOT || errno == EFBIG) fail(errno);
      if (errno != EINTR) return;  // this file system cannot tell: writing will
    }
  }

  void write(std::span<const std::byte> bytes) const {
    while (!bytes.empty()) {
      const auto done = ::write(file_, bytes.data(), std::min(bytes.size(), std::size_t{1} << 30));
      if (done < 0 && errno == EINTR) continue;
      if (done <= 0) fail(done < 0 ? errno : ENOSPC);
      bytes = bytes.subspan(static_cast<std::size_t>(done));
    }
  }

  void use_mode_of(const struct ::stat& old) const { (void)!::fchmod(file_, old.st_mode & 07777); }

  void sync() const {
    if (::fsync(file_) != 0) fail(errno);
  }

  /// Closes the file, which can still tell of an error on a network's disk, and gives it its name.
  void rename_to(const std::filesystem::path& name) {
    if (::close(std::exchange(file_, -1)) != 0) fail(errno);
    if (::rename(path_.c_str(), name.c_str()) != 0) fail(errno);
    remove_ = false;
  }

 private:
  std::filesystem::path path_;
  std::string target_;
  std::uint64_t wanted_;
  bool remove_;
  int file_;
};

}  // namespace detail

/// Writes a file of these parts end to end, all or nothing: into a temporary file beside it, which is synced
/// and renamed.
///
/// Whoever reads `path` meanwhile, or after a crash, sees the old file or the new one. A link is followed, an
/// old file's permissions are kept; a device or pipe such as /dev/stdout is written to directly. Parts are
/// not copied. \throws ArgumentError with the path, the size and the system's words, e.g. on a full disk;
/// then nothing has changed.
inline void write_file_atomically(const std::filesystem::path& path,
                                  std::span<const std::span<const std::byte>> parts) {
  std::uint64_t wanted = 0;
  for (const auto part : parts) wanted += part.size();

  struct ::stat old {};
  const bool exists = ::stat(path.c_str(), &old) == 0;
  require(!exists || !S_ISDIR(old.st_mode), "cannot write {}: it is a folder", path.string());
  if (exists && !S_ISREG(old.st_mode)) {
    const detail::OutputFile out(path, O_APPEND, path.string(), wanted);
    for (const auto part : parts) out.write(part);
    return;
  }
  std::error_code unresolved;
  auto target = exists ? std::filesystem::canonical(path, unresolved) : path;
  if (unresolved) target = path;
  detail::OutputFile out(detail::temporary_sibling(target), O_CREAT | O_EXCL, path.string(), wanted);
  if (exists) out.use_mode_of(old);
  out.reserve();
  for (const auto part : parts) out.write(part);
  out.sync();
  out.rename_to(target);
  detail::sync_folder(target.parent_path());
}

/// The same for one text.
inline void write_text_atomically(const std::filesystem::path& path, std::string_view text) {
  const std::span<const std::byte> part = std::as_bytes(std::span(text));
  write_file_atomically(path, std::span(&part, 1));
}

}  // namespace offsite
