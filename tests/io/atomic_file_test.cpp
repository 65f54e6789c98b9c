#include "offsite/io/atomic_file.hpp"

#include <sys/resource.h>
#include <unistd.h>
#include <csignal>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string>
#include <vector>

#include "offsite/io/mapped_file.hpp"
#include "offsite/io/safetensors.hpp"
#include "offsite/io/staged_folder.hpp"
#include "support/test.hpp"

namespace atomic_file_test {

using namespace offsite;
namespace fs = std::filesystem;

namespace {

/// No file of this process may grow beyond `bytes`, as on a disk with so much left; restored with the object.
class FullDisk {
 public:
  explicit FullDisk(rlim_t bytes) {
    handler_ = std::signal(SIGXFSZ, SIG_IGN);  // or the system ends the process
    ::getrlimit(RLIMIT_FSIZE, &old_);
    const ::rlimit limit{bytes, old_.rlim_max};
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &limit) == 0);
  }
  FullDisk(const FullDisk&) = delete;
  FullDisk& operator=(const FullDisk&) = delete;
  ~FullDisk() {
    ::setrlimit(RLIMIT_FSIZE, &old_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  ::rlimit old_{};
  void (*handler_)(int);
};

std::vector<std::string> entries(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

TEST_CASE("write_file_atomically: parts end to end, nothing else left") {
  const support::TemporaryFolder folder;
  const std::array<std::span<const std::byte>, 3> parts{
      std::as_bytes(std::span("abc", 3)), std::span<const std::byte>{}, std::as_bytes(std::span("de", 2))};
  write_file_atomically(folder / "f", parts);
  CHECK(support::read_file(folder / "f") == "abcde");
  write_text_atomically(folder / "f", "");
  CHECK(support::read_file(folder / "f").empty());
  CHECK(entries(folder.path()) == std::vector<std::string>{"f"});
}

TEST_CASE("write_file_atomically: keeps permissions, follows links, fits the longest name") {
  const support::TemporaryFolder folder;
  support::write_file(folder / "f", "old");
  fs::permissions(folder / "f", fs::perms::owner_read | fs::perms::owner_write);
  fs::create_symlink("f", folder / "link");
  write_text_atomically(folder / "link", "new");
  CHECK(fs::is_symlink(folder / "link"));
  CHECK(support::read_file(folder / "f") == "new");
  CHECK(fs::status(folder / "f").permissions() == (fs::perms::owner_read | fs::perms::owner_write));
  const std::string longest(255, 'n');
  write_text_atomically(folder / longest, "x");
  CHECK(support::read_file(folder / longest) == "x");
}

TEST_CASE("write_file_atomically: says what is wrong with a path") {
  const support::TemporaryFolder folder;
  CHECK(support::message_of<ArgumentError>([&] { write_text_atomically(folder.path(), "x"); }) ==
        "cannot write " + folder.path().string() + ": it is a folder");
  CHECK(support::message_of<ArgumentError>([&] { write_text_atomically(folder / "no/f", "xy"); }) ==
        "cannot write " + (folder / "no/f").string() + " (2 bytes wanted): No such file or directory");
  CHECK(entries(folder.path()).empty());
}

TEST_CASE("write_file_atomically: a full device says so") {
  CHECK(support::message_of<ArgumentError>([] { write_text_atomically("/dev/full", "abc"); }) ==
        "cannot write /dev/full (3 bytes wanted): No space left on device");
  CHECK(fs::is_character_file("/dev/full"));  // not replaced by a file
  write_text_atomically("/dev/null", "abc");
  CHECK(fs::is_character_file("/dev/null"));
}

TEST_CASE("save_safetensors: a full disk leaves the old file and nothing else") {
  const support::TemporaryFolder folder;
  support::write_file(folder / "f", "old");
  const std::vector<std::byte> data(100'000);
  const std::vector<NamedView> views{{"a", {Dtype::kU8, {100'000}, data}}};
  std::string message;
  {
    const FullDisk disk(50'000);
    message = support::message_of<ArgumentError>([&] { save_safetensors(folder / "f", views); });
  }
  CHECK(message.starts_with("cannot write " + (folder / "f").string() + " (1000"));
  CHECK(message.ends_with(" bytes wanted): File too large"));
  CHECK(support::read_file(folder / "f") == "old");
  CHECK(entries(folder.path()) == std::vector<std::string>{"f"});
  save_safetensors(folder / "f", views);
  CHECK(SafetensorsFile(folder / "f").at("a").bytes.size() == 100'000);
}

TEST_CASE("save_safetensors: a full file system leaves the old file and nothing else") {
  if (::geteuid() != 0) return support::skip("only root can mount a small file system");
  const support::TemporaryFolder folder;
  const auto quiet = " " + folder.path().string() + " 2>/dev/null";
  if (std::system(("mount -t tmpfs -o size=64k none" + quiet).c_str()) != 0)
    return support::skip("mounting is not allowed here");
  support::write_file(folder / "f", "old");
  const std::vector<std::byte> data(1'000'000);
  const std::vector<NamedView> views{{"a", {Dtype::kU8, {1'000'000}, data}}};
  std::string message, kept;
  std::vector<std::string> left;
  try {
    message = support::message_of<ArgumentError>([&] { save_safetensors(folder / "f", views); });
    kept = support::read_file(folder / "f");
    left = entries(folder.path());
  } catch (const std::exception& error) {
    message = error.what();
  }
  REQUIRE(std::system(("umount" + quiet).c_str()) == 0);
  CHECK(message.ends_with("bytes wanted): No space left on device"));
  CHECK(kept == "old");
  CHECK(left == std::vector<std::string>{"f"});
}

TEST_CASE("StagedFolder: appears complete or not at all") {
  const support::TemporaryFolder folder;
  {
    StagedFolder staged(folder / "deep/er/out");
    write_text_atomically(staged.path() / "f", "x");
    fs::create_directory(staged.path() / "sub");
    write_text_atomically(staged.path() / "sub/g", "y");
    CHECK_FALSE(fs::exists(folder / "deep/er/out"));
  }
  CHECK(entries(folder.path()).empty());  // not even the parents
  {
    StagedFolder staged(folder / "deep/er/out/");
    write_text_atomically(staged.path() / "f", "x");
    staged.commit();
    CHECK(support::read_file(staged.path() / "f") == "x");
    CHECK_THROWS_AS(staged.commit(), ArgumentError);
  }
  CHECK(support::read_file(folder / "deep/er/out/f") == "x");
  CHECK(entries(folder / "deep/er") == std::vector<std::string>{"out"});
}

TEST_CASE("StagedFolder: an existing folder is refused, or replaced as a whole") {
  const support::TemporaryFolder folder;
  const auto out = folder / "out";
  fs::create_directory(out);
  {
    StagedFolder staged(out);  // empty: nothing is lost
    write_text_atomically(staged.path() / "old", "1");
    staged.commit();
  }
  CHECK(support::message_of<ArgumentError>([&] { StagedFolder staged(out); }) ==
        "the folder " + out.string() + " exists and is not empty, and replacing it was not asked for");
  {
    StagedFolder staged(out, StagedFolder::kReplace);
    write_text_atomically(staged.path() / "new", "2");
  }
  CHECK(entries(out) == std::vector<std::string>{"old"});
  {
    StagedFolder staged(out, StagedFolder::kReplace);
    write_text_atomically(staged.path() / "new", "2");
    CHECK(entries(out) == std::vector<std::string>{"old"});
    staged.commit();
  }
  CHECK(entries(out) == std::vector<std::string>{"new"});
  CHECK(entries(folder.path()) == std::vector<std::string>{"out"});
  CHECK(support::message_of<ArgumentError>([&] {
          StagedFolder staged(out / "new");
        }).ends_with("a file of that name exists"));
  CHECK_THROWS_AS(StagedFolder(out / "new/below"), ArgumentError);
  CHECK_THROWS_AS(StagedFolder(""), ArgumentError);
}

TEST_CASE("StagedFolder: a link to a folder stays a link") {
  const support::TemporaryFolder folder;
  fs::create_directory(folder / "real");
  fs::create_directory_symlink("real", folder / "link");
  StagedFolder staged(folder / "link");
  write_text_atomically(staged.path() / "f", "x");
  staged.commit();
  CHECK(fs::is_symlink(folder / "link"));
  CHECK(support::read_file(folder / "real/f") == "x");
}

TEST_CASE("MappedFile: maps regular files, and writing into the pages does not reach the file") {
  const support::TemporaryFolder folder;
  support::write_file(folder / "f", "abc");
  support::write_file(folder / "empty", "");
  MappedFile file(folder / "f");
  CHECK(file.text() == "abc");
  const_cast<std::byte&>(file.bytes()[0]) = std::byte{'x'};
  CHECK(file.text() == "xbc");
  CHECK(support::read_file(folder / "f") == "abc");
  const MappedFile moved(std::move(file));
  CHECK(moved.text() == "xbc");
  CHECK(MappedFile(folder / "empty").size() == 0);
  CHECK(support::message_of<ArgumentError>([&] { MappedFile missing(folder / "no"); }) ==
        "cannot read " + (folder / "no").string() + ": No such file or directory");
  CHECK(
      support::message_of<ArgumentError>([&] { MappedFile dir(folder.path()); }).ends_with("it is a folder"));
  CHECK(support::message_of<ArgumentError>([&] {
          MappedFile device("/dev/zero");
        }).ends_with("it is not a regular file"));
  REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
  CHECK(support::message_of<ArgumentError>([&] {
          MappedFile pipe(folder / "pipe");
        }).ends_with("it is not a regular file"));
}

}  // namespace atomic_file_test
