#pragma once
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <exception>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/federation/chunk_bytes.hpp"
#include "offsite/federation/sum_of_squares.hpp"
#include "offsite/io/sha256.hpp"

namespace offsite::federation {

/// Writes files that come in pieces, and looks at their bytes on the way, on a thread of its own: whoever receives the pieces
/// receives the next ones meanwhile. Pieces of all files are written in the order they are given; little more than 8 MiB of
/// them wait.
///
/// Whole blocks go to the disk past the page cache, where the file system can do so: a copy less, and what came stays out of
/// memory that others need. On a virtual machine whose host takes free memory back, a first touch of the cache's pages would
/// cost more than all the rest.
class PartWriter {
 public:
  /// What passed by.
  struct Seen {
    std::string sha256;  ///< empty if the bytes did not come in order
    double squares = 0;  ///< see `FileSquares`
  };

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
  void write(const std::filesystem::path& path, std::uint64_t offset, ChunkBytes bytes) {
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
  /// Settles, and forgets the file. \returns what was seen of its first `bytes` bytes if all of them, and no more, were given
  /// in order since offset 0
  /// \throws ArgumentError if a piece of it could not be written
  Seen finish(const std::filesystem::path& path, std::uint64_t bytes) {
    settle();
    const std::lock_guard lock(mutex_);
    auto found = files_.extract(path);
    if (found.empty()) return {};
    check(found.mapped());
    auto& file = found.mapped();
    return file.bytes == bytes ? Seen{file.hash.hex(), file.squares.value()} : Seen{};
  }

 private:
  static constexpr std::size_t kMostWaiting = 8 << 20;
  static constexpr std::size_t kBlock = 4096, kMostBlocks = 4 << 20;
  static constexpr std::uint64_t kUnknown = UINT64_MAX;

  struct File {
    Sha256 hash{};
    FileSquares squares{};
    std::uint64_t bytes = kUnknown;  // that these have seen; unknown after a restart, or a step back
    std::string failure{};
  };
  struct Piece {
    std::filesystem::path path;
    File* file;
    std::uint64_t offset;
    ChunkBytes bytes;
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
  [[nodiscard]] std::string write(const Piece& piece) try {
    auto& file = *piece.file;
    if (piece.offset == 0) {
      file.hash = {};
      file.squares = {};
      file.bytes = 0;
    }
    if (file.bytes == piece.offset) {
      file.hash.update(piece.bytes);
      file.squares.add(piece.bytes);
      file.bytes += piece.bytes.size();
    } else {
      file.bytes = kUnknown;
    }
    const int number = ::open(piece.path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0666);
    int reason = number < 0 ? errno : 0;
    if (reason == 0 && ::ftruncate(number, static_cast<off_t>(piece.offset)) != 0) reason = errno;
    if (reason == 0) reason = write(number, piece);
    if (number >= 0 && ::close(number) != 0 && reason == 0) reason = errno;
    return reason == 0 ? std::string()
                       : formatted("cannot write {}: {}", piece.path.string(), std::strerror(reason));
  } catch (const std::exception& error) {
    return error.what();
  }

  /// \returns why not all was written, or 0
  [[nodiscard]] int write(int file, const Piece& piece) {
    std::size_t done = 0;
    const auto whole = piece.offset % kBlock == 0 ? piece.bytes.size() / kBlock * kBlock : 0;
    if (whole > 0 && ::fcntl(file, F_SETFL, O_DIRECT) == 0) {
      if (!blocks_) blocks_.reset(static_cast<std::byte*>(std::aligned_alloc(kBlock, kMostBlocks)));
      while (blocks_ && done < whole) {
        const auto size = std::min(whole - done, kMostBlocks);
        std::memcpy(blocks_.get(), piece.bytes.data() + done, size);
        const auto count = ::pwrite(file, blocks_.get(), size, static_cast<off_t>(piece.offset + done));
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) break;
        done += static_cast<std::size_t>(count);
      }
      if (::fcntl(file, F_SETFL, 0) != 0) return errno;
    }
    while (done < piece.bytes.size()) {
      const auto count = ::pwrite(file, piece.bytes.data() + done, piece.bytes.size() - done,
                                  static_cast<off_t>(piece.offset + done));
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) return count < 0 ? errno : ENOSPC;
      done += static_cast<std::size_t>(count);
    }
    // The disk begins to write now, so that the sync at the end has little left to wait for.
    ::sync_file_range(file, static_cast<off_t>(piece.offset), static_cast<off_t>(piece.bytes.size()),
                      SYNC_FILE_RANGE_WRITE);
    return 0;
  }

  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };

  std::unique_ptr<std::byte, Free> blocks_;  // at an address that the disk can read from
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Piece> pieces_;  // the first one is being written
  std::size_t waiting_ = 0;   // bytes of them
  std::map<std::filesystem::path, File> files_;
  bool ended_ = false;
  std::thread thread_;
};

}  // namespace offsite::federation
