#include "offsite/core/process.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "support/test.hpp"

namespace process_test {

using namespace offsite;

namespace {

/// Resident memory of mapped files in kB.
long long resident_files() {
  std::FILE* status = std::fopen("/proc/self/status", "re");
  char line[256];
  long long kilobytes = 0;
  while (std::fgets(line, sizeof line, status) != nullptr)
    if (std::sscanf(line, "RssFile: %lld kB", &kilobytes) == 1) break;
  std::fclose(status);
  return kilobytes;
}

}  // namespace

TEST_CASE("release_file_pages: a mapped file's pages leave memory and come back as they were") {
  constexpr std::size_t kBytes = 16 << 20;
  char name[] = "process_test_XXXXXX";
  const int file = mkstemp(name);
  REQUIRE(file >= 0);
  std::vector<unsigned char> bytes(kBytes);
  for (std::size_t i = 0; i < kBytes; ++i) bytes[i] = static_cast<unsigned char>(i * 7 + i / 4096);
  REQUIRE(write(file, bytes.data(), kBytes) == static_cast<ssize_t>(kBytes));
  fsync(file);  // what is not written yet cannot leave
  auto* mapped = static_cast<unsigned char*>(mmap(nullptr, kBytes, PROT_READ, MAP_PRIVATE, file, 0));
  REQUIRE(mapped != MAP_FAILED);
  REQUIRE(std::equal(bytes.begin(), bytes.end(), mapped));

  const auto before = resident_files();
  release_file_pages(mapped + 5, kBytes - 10);
  const auto after = resident_files();
  CHECK(after <= before);  // how many leave is the system's choice
  MESSAGE("kB of the file that left: ", before - after);
  CHECK(std::equal(bytes.begin(), bytes.end(), mapped));

  const auto own = bytes;
  release_file_pages(bytes.data(), bytes.size());
  release_file_pages(bytes.data(), 10);
  release_file_pages(nullptr, 0);
  CHECK(bytes == own);
  munmap(mapped, kBytes);
  close(file);
  std::remove(name);
}

TEST_CASE("anonymous_memory: counts what was written to, and no page of a mapped file") {
  constexpr std::size_t kBytes = 16 << 20, kSlack = 1 << 20;
  const auto map = [](int file) {
    auto* bytes =
        static_cast<unsigned char*>(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE,
                                         file < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, file, 0));
    REQUIRE(bytes != MAP_FAILED);
    return bytes;
  };
  char name[] = "process_test_XXXXXX";
  const int file = mkstemp(name);
  REQUIRE(file >= 0);
  REQUIRE(ftruncate(file, kBytes) == 0);
  auto *own = map(-1), *of_file = map(file);
  const auto before = anonymous_memory();
  std::fill_n(of_file, kBytes, 1);
  const auto with_file = anonymous_memory();
  CHECK(std::abs(with_file - before) < static_cast<std::int64_t>(kSlack));
  std::fill_n(own, kBytes, 1);
  CHECK(std::abs(anonymous_memory() - with_file - static_cast<std::int64_t>(kBytes)) <
        static_cast<std::int64_t>(kSlack));
  munmap(own, kBytes);
  munmap(of_file, kBytes);
  close(file);
  std::remove(name);
}

TEST_CASE("give_back_freed_memory: what was freed between blocks in use leaves memory") {
  constexpr std::size_t kBlocks = 512, kBytes = 64 << 10;  // below what the C library maps by itself
  std::vector<std::vector<unsigned char>> blocks;
  for (std::size_t i = 0; i < kBlocks; ++i) blocks.emplace_back(kBytes, static_cast<unsigned char>(i));
  for (std::size_t i = 0; i < kBlocks; ++i)
    if (i % 8 != 7) std::vector<unsigned char>().swap(blocks[i]);
  const auto before = anonymous_memory();
  REQUIRE(before > 0);
  give_back_freed_memory();
  const auto given_back = before - anonymous_memory();
  MESSAGE("bytes given back: ", given_back);
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__)  // whose allocator is another
  CHECK(given_back > static_cast<std::int64_t>(kBlocks * kBytes / 2));
#endif
  for (std::size_t i = 7; i < kBlocks; i += 8)
    CHECK(blocks[i] == std::vector<unsigned char>(kBytes, static_cast<unsigned char>(i)));
}

TEST_CASE("keep_few_products: sets the limits that oneDNN reads, unless the user's environment has them") {
  // Whatever a run of the tests has set stays.
  const char* names[] = {"LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"};
  std::vector<std::optional<std::string>> before;
  for (const char* name : names) {
    const char* value = std::getenv(name);
    before.push_back(value == nullptr ? std::nullopt : std::optional<std::string>(value));
    unsetenv(name);
  }
  setenv(names[0], "7", 1);
  keep_few_products(48);
  CHECK(std::string(std::getenv(names[0])) == "7");
  CHECK(std::string(std::getenv(names[1])) == "48");
  for (std::size_t i = 0; i < before.size(); ++i) {
    unsetenv(names[i]);
    if (before[i]) setenv(names[i], before[i]->c_str(), 1);
  }
}

}  // namespace process_test
