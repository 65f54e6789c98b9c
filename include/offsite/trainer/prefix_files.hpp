#pragma once
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <system_error>
#include <utility>

#include "offsite/core/error.hpp"
#include "offsite/io/sha256.hpp"
#include "offsite/trainer/prefix_cache.hpp"

namespace offsite {

namespace detail {

/// Maps a file of `size` bytes, made and filled with zeros if there is none of that size, and keeps others off it.
inline std::shared_ptr<std::byte> map_prefix_file(const std::filesystem::path& path, std::size_t size) {
  const auto file = std::shared_ptr<const int>(
      new int(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600)),
      [](const int* number) {
        if (*number >= 0) ::close(*number);
        delete number;
      });
  const auto refuse = [&](int reason) {
    throw ArgumentError(
        formatted("cannot keep {} bytes in {}: {}", size, path.string(), std::strerror(reason)));
  };
  if (*file < 0) refuse(errno);
  require(::flock(*file, LOCK_EX | LOCK_NB) == 0,
          "the prefix cache {} is in use by another run: wait for it, or name another folder", path.string());
  struct ::stat facts {};
  if (::fstat(*file, &facts) != 0) refuse(errno);
  require(S_ISREG(facts.st_mode), "cannot keep a prefix cache in {}: it is not a regular file",
          path.string());
  if (facts.st_size != static_cast<off_t>(size) && ::ftruncate(*file, 0) != 0) refuse(errno);
  // Space on the disk beforehand: a page that finds none when it is written ends the process.
  if (const int reason = ::posix_fallocate(*file, 0, static_cast<off_t>(size)); reason != 0) {
    (void)!::ftruncate(*file, 0);
    refuse(reason);
  }
  void* const data = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, *file, 0);
  if (data == MAP_FAILED) refuse(errno);
  return {static_cast<std::byte*>(data), [size, file](std::byte* p) { ::munmap(p, size); }};
}

}  // namespace detail

/// Keeps the rows of prefix caches in mapped files of `folder`, which is made if need be. A file's name is the SHA-256
/// of the frozen weights, the samples and the type: a later run of the same finds its rows there.
///
/// Rows tell of the samples: the folder is as private as the data. Files are for this program alone; one that another
/// program shortens meanwhile ends the process. The store throws ArgumentError if the disk has no room, or while
/// another run uses the file.
[[nodiscard]] inline PrefixStore prefix_files_in(std::filesystem::path folder) {
  return
      [folder = std::move(folder)](std::span<const std::span<const std::byte>> identity, std::size_t size) {
        std::error_code failed;
        std::filesystem::create_directories(folder, failed);
        require(!failed, "cannot make the folder {}: {}", folder.string(), failed.message());
        Sha256 sum;
        for (const auto part : identity) sum.update(part);
        return detail::map_prefix_file(folder / (sum.hex() + ".rows"), size);
      };
}

}  // namespace offsite
