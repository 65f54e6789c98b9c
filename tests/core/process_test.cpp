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
