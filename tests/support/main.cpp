// The main program of every test executable: doctest, skips by name, and a last line that run.sh adds up.
#define DOCTEST_CONFIG_IMPLEMENT
#include "support/test.hpp"

#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <set>
#include <stdexcept>

namespace support {
namespace {

std::string current;           // the running test case
std::set<std::string> skipped;  // test cases that said so

struct Names : doctest::IReporter {
  explicit Names(const doctest::ContextOptions&) {}
  void report_query(const doctest::QueryData&) override {}
  void test_run_start() override {}
  void test_run_end(const doctest::TestRunStats&) override {}
  void test_case_start(const doctest::TestCaseData& in) override { current = in.m_name; }
  void test_case_reenter(const doctest::TestCaseData&) override {}
  void test_case_end(const doctest::CurrentTestCaseStats& stats) override {
    if (stats.failure_flags) skipped.erase(current);
    ran += 1;
    failed += stats.failure_flags ? 1 : 0;
  }
  void test_case_exception(const doctest::TestCaseException&) override {}
  void subcase_start(const doctest::SubcaseSignature&) override {}
  void subcase_end() override {}
  void log_assert(const doctest::AssertData&) override {}
  void log_message(const doctest::MessageData&) override {}
  void test_case_skipped(const doctest::TestCaseData&) override {}

  static inline int ran = 0, failed = 0;
};
DOCTEST_REGISTER_LISTENER("names", 1, Names);

}  // namespace

std::filesystem::path root() {
  const char* given = std::getenv("OFFSITE_SOURCE_ROOT");
  return given ? std::filesystem::path(given) : std::filesystem::current_path();
}

std::filesystem::path data(std::string_view name) {
  const char* given = std::getenv("OFFSITE_DATA");
  return (given ? std::filesystem::path(given) : root() / ".." / "shared" / "data") / name;
}

bool have_data(std::string_view name) {
  if (std::filesystem::exists(data(name))) return true;
  skip("needs the data file " + std::string(name));
  return false;
}

std::filesystem::path golden(std::string_view name) { return root() / "tests" / "golden" / name; }

void skip(std::string_view reason) {
  skipped.insert(current);
  std::printf("[skipped] %s: %.*s\n", current.c_str(), static_cast<int>(reason.size()), reason.data());
}

TemporaryFolder::TemporaryFolder() {
  std::string name = (std::filesystem::temp_directory_path() / "offsite-test-XXXXXX").string();
  if (!mkdtemp(name.data())) throw std::runtime_error("cannot make " + name);
  path_ = name;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + path.string());
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

void write_file(const std::filesystem::path& path, std::string_view text) {
  std::ofstream out(path, std::ios::binary);
  out.write(text.data(), static_cast<std::streamsize>(text.size()));
  if (!out.flush()) throw std::runtime_error("cannot write " + path.string());
}

}  // namespace support

int main(int argc, char** argv) {
  doctest::Context context;
  context.applyCommandLine(argc, argv);
  const int status = context.run();
  const int skips = static_cast<int>(support::skipped.size());
  std::printf("[summary] %d passed, %d failed, %d skipped\n", support::Names::ran - support::Names::failed - skips,
              support::Names::failed, skips);
  return status;
}
