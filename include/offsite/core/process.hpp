#pragma once
#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <climits>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace offsite {

/// Makes the C library keep what is freed instead of giving it back: a training step that allocates and frees its
/// activations then costs no page faults, at the price of memory that stays with the process. For programs to call at
/// their start; a library must not change its host's allocator by itself. Without glibc it does nothing.
inline void keep_freed_memory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, INT_MAX);
  mallopt(M_TOP_PAD, 64 << 20);
#endif
}

/// Gives all memory that was freed back to the system, from between what is in use, too: for programs that have read their
/// data and now train for long. `keep_freed_memory` would leave them with what only reading needed. Without glibc it does
/// nothing.
inline void give_back_freed_memory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

/// Limits how many compiled products LibTorch's CPU library (oneDNN) keeps, unless the user's environment says so already.
/// It compiles one for each shape that it meets; batches of ever new lengths bring ever new ones, none of which comes back,
/// and each holds working memory. For programs to call before their first product. \param most  at least those of one
/// training step, about 30
inline void keep_few_products(int most = 64) {
  char number[16];
  std::snprintf(number, sizeof number, "%d", most);
  setenv("LRU_CACHE_CAPACITY", number, 0);
  setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", number, 0);
}

/// Anonymous resident memory of this process now, in bytes: what mapped files hold is not counted. 0 if unknown.
/// Takes microseconds, but a thread that asks often also takes a processor from those that compute each time.
[[nodiscard]] inline std::int64_t anonymous_memory() {
  std::FILE* pages = std::fopen("/proc/self/statm", "re");
  if (pages == nullptr) return 0;
  long long resident = 0, of_files = 0;  // in pages; the first number is of addresses
  if (std::fscanf(pages, "%*s %lld %lld", &resident, &of_files) != 2) resident = of_files;
  std::fclose(pages);
  return (resident - of_files) * sysconf(_SC_PAGESIZE);
}

/// Takes the pages of a mapped file that hold `bytes` at `data` out of this process's memory: for what has been read and
/// is hardly needed again. Its contents stay, and are read anew when touched. Does nothing to memory of other kinds.
inline void release_file_pages(const void* data, std::size_t bytes) {
#ifdef MADV_PAGEOUT
  constexpr std::uintptr_t kPage = 4096;
  const auto address = reinterpret_cast<std::uintptr_t>(data);
  const auto first = (address + kPage - 1) / kPage * kPage, last = (address + bytes) / kPage * kPage;
  if (first >= last) return;
  std::FILE* maps = std::fopen("/proc/self/maps", "re");
  if (maps == nullptr) return;
  char line[512];
  bool of_file = false;
  while (!of_file && std::fgets(line, sizeof line, maps) != nullptr) {
    unsigned long long begin = 0, end = 0, inode = 0;
    if (std::sscanf(line, "%llx-%llx %*s %*s %*s %llu", &begin, &end, &inode) == 3)
      of_file = begin <= first && last <= end && inode != 0;
  }
  std::fclose(maps);
  if (of_file) madvise(reinterpret_cast<void*>(first), last - first, MADV_PAGEOUT);
#else
  (void)data, (void)bytes;
#endif
}

}  // namespace offsite
