#pragma once
#include <filesystem>
#include <string>
#include <string_view>

namespace support {

/// The project's root folder: OFFSITE_SOURCE_ROOT, else the working directory.
std::filesystem::path root();

/// A file or folder of the real data (OFFSITE_DATA, else ../shared/data seen from the root).
std::filesystem::path data(std::string_view name);

/// True if the real data holds `name`; otherwise the current test case counts as skipped, by name.
[[nodiscard]] bool have_data(std::string_view name);

/// A file of tests/golden; committed, so its absence is a failure.
std::filesystem::path golden(std::string_view name);

/// Marks the current test case as skipped for `reason`; return from it afterwards.
void skip(std::string_view reason);

/// A folder of its own for each object, removed with it.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] std::filesystem::path operator/(std::string_view name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

std::string read_file(const std::filesystem::path& path);
void write_file(const std::filesystem::path& path, std::string_view text);

/// The message of the exception of type `E` that `f` throws; fails the test if it throws another or none.
template <class E, class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const E& error) {
    return error.what();
  } catch (const std::exception& error) {
    FAIL("threw another exception: ", error.what());
  }
  FAIL("threw nothing");
  return {};
}

}  // namespace support
