#pragma once
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <exception>
#include <filesystem>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/io/sha256.hpp"

namespace offsite::federation {

/// Writes files that come in pieces, and hashes them on the way, on a thread of its own: whoever receives the pieces receives
/// the next ones meanwhile. Pieces of all files are written in the order they are given; little more than 8 MiB of them wait.
class PartWriter {
 public:
  PartWriter() = default;
  PartWriter(const PartWriter&) = delete;
  PartWriter& operator=(const PartWriter&) = delete;
  ~PartWriter() {  // writes what it was given
    if (!thread_.joinable()) return;
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  /// The file ends behind these bytes, which begin at `offset`; it is made if need be. Waits while others are to be written.
  /// \throws ArgumentError if an earlier piece of this file could not be written
  void write(const std::filesystem::path& path, std::uint64_t offset, std::vector<std::byte> bytes) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return waiting_ == 0 || waiting_ + bytes.size() <= kMostWaiting; });
    auto& file = files_[path];
    check(file);
    waiting_ += bytes.size();
    pieces_.push_back({path, &file, offset, std::move(bytes)});
    if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
    lock.unlock();
    changed_.notify_all();
  }
  /// Waits until all that was given is in its file.
  void settle() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return pieces_.empty(); });
  }
  /// Settles, and forgets the file. \returns the SHA-256 of its first `bytes` bytes if all of them, and no more, were given
  /// in order since offset 0; else an empty text
  /// \throws ArgumentError if a piece of it could not be written
  std::string finish(const std::filesystem::path& path, std::uint64_t bytes) {
    settle();
    const std::lock_guard lock(mutex_);
    auto found = files_.extract(path);
    if (found.empty()) return {};
    check(found.mapped());
    return found.mapped().bytes == bytes ? found.mapped().hash.hex() : std::string();
  }

 private:
  static constexpr std::size_t kMostWaiting = 8 << 20;
  static constexpr std::uint64_t kUnknown = UINT64_MAX;

  struct File {
    Sha256 hash{};
    std::uint64_t bytes = kUnknown;  // that the hash has seen; unknown after a restart, or a step back
    std::string failure{};
  };
  struct Piece {
    std::filesystem::path path;
    File* file;
    std::uint64_t offset;
    std::vector<std::byte> bytes;
  };

  static void check(const File& file) {
    if (!file.failure.empty()) throw ArgumentError(file.failure);
  }

  void run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return ended_ || !pieces_.empty(); });
      if (pieces_.empty()) return;
      auto& piece =
          pieces_.front();  // stays there until it is written; only its file's failure is looked at meanwhile
      std::string failure = piece.file->failure;
      lock.unlock();
      if (failure.empty()) failure = write(piece);
      lock.lock();
      piece.file->failure = std::move(failure);
      waiting_ -= piece.bytes.size();
      pieces_.pop_front();
      changed_.notify_all();
    }
  }

  /// \returns what went wrong, or an empty text
  [[nodiscard]] static std::string write(const Piece& piece) try {
    auto& file = *piece.file;
    if (piece.offset == 0) {
      file.hash = {};
      file.bytes = 0;
    }
    if (file.bytes == piece.offset) {
      file.hash.update(piece.bytes);
      file.bytes += piece.bytes.size();
    } else {
      file.bytes = kUnknown;
    }
    const int number = ::open(piece.path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0666);
    int reason = number < 0 ? errno : 0;
    if (reason == 0 && ::ftruncate(number, static_cast<off_t>(piece.offset)) != 0) reason = errno;
    for (std::size_t done = 0; reason == 0 && done < piece.bytes.size();) {
      const auto count = ::pwrite(number, piece.bytes.data() + done, piece.bytes.size() - done,
                                  static_cast<off_t>(piece.offset + done));
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) reason = count < 0 ? errno : ENOSPC;
      if (count > 0) done += static_cast<std::size_t>(count);
    }
    // The disk begins to write now, so that the sync at the end has little left to wait for.
    if (reason == 0)
      ::sync_file_range(number, static_cast<off_t>(piece.offset), static_cast<off_t>(piece.bytes.size()),
                        SYNC_FILE_RANGE_WRITE);
    if (number >= 0 && ::close(number) != 0 && reason == 0) reason = errno;
    return reason == 0 ? std::string()
                       : formatted("cannot write {}: {}", piece.path.string(), std::strerror(reason));
  } catch (const std::exception& error) {
    return error.what();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Piece> pieces_;  // the first one is being written
  std::size_t waiting_ = 0;   // bytes of them
  std::map<std::filesystem::path, File> files_;
  bool ended_ = false;
  std::thread thread_;
};

}  // namespace offsite::federation
