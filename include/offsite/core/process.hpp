#pragma once
#include <malloc.h>

#include <climits>
#include <cstdint>
#include <cstdio>
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

/// Anonymous resident memory of this process now, in bytes: what mapped files hold is not counted. 0 if unknown.
[[nodiscard]] inline std::int64_t anonymous_memory() {
  std::FILE* status = std::fopen("/proc/self/status", "re");
  if (status == nullptr) return 0;
  char line[256];
  long long kilobytes = 0;
  while (std::fgets(line, sizeof line, status) != nullptr)
    if (std::sscanf(line, "RssAnon: %lld kB", &kilobytes) == 1) break;
  std::fclose(status);
  return static_cast<std::int64_t>(kilobytes) * 1024;
}

}  // namespace offsite
