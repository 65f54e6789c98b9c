#include "offsite/report/json_lines.hpp"

#include <limits>

#include "support/test.hpp"

namespace json_lines_test {

using namespace offsite;

TEST_CASE("JsonLines: one object a line, on disk at once, appended if asked") {
  const support::TemporaryFolder folder;
  {
    JsonLines lines(folder / "log.jsonl");
    lines.write(Json::object({{"step", 1}, {"loss", std::numeric_limits<double>::quiet_NaN()}}));
    CHECK(support::read_file(folder / "log.jsonl") == "{\"step\":1,\"loss\":null}\n");
    lines.write(Json::object({{"text", "a\nb\xff"}}));
  }
  JsonLines(folder / "log.jsonl", JsonLines::Mode::kAppend).write(Json::object({{"step", 2}}));
  CHECK(support::read_file(folder / "log.jsonl") ==
        "{\"step\":1,\"loss\":null}\n{\"text\":\"a\\nb\xef\xbf\xbd\"}\n{\"step\":2}\n");
}

TEST_CASE("JsonLines: says why it cannot write") {
  const support::TemporaryFolder folder;
  CHECK(support::message_of<ArgumentError>([&] {
          JsonLines lines(folder / "no" / "log");
        }).find("No such file") != std::string::npos);
  if (!std::filesystem::exists("/dev/full")) return support::skip("there is no /dev/full");
  JsonLines full("/dev/full");
  CHECK(support::message_of<ArgumentError>([&] {
          full.write(Json::object({{"a", 1}}));
        }).find("No space left") != std::string::npos);
}

}  // namespace json_lines_test
