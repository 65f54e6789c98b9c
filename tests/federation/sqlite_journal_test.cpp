#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "federation/check_journal.hpp"
#include "offsite/core/random.hpp"
#include "offsite/federation/check_update.hpp"
#include "offsite/federation/sqlite_journal.hpp"

#include "support/test.hpp"

namespace sqlite_journal_test {

using namespace offsite::federation;
using offsite::Json;

namespace {

std::vector<std::byte> numbered(std::int64_t i) {
  std::vector<std::byte> bytes(200);
  for (std::size_t k = 0; k < bytes.size(); ++k)
    bytes[k] = static_cast<std::byte>(offsite::derive_key(3, i, k));
  return bytes;
}

/// Puts a blob, then writes a record of it, for ever.
[[noreturn]] void write_for_ever(const std::filesystem::path& folder) {
  SqliteJournal journal(folder);
  for (auto i = static_cast<std::int64_t>(journal.records().size());; ++i)
    journal.append({"number", Json::object({{"i", i}, {"sha256", journal.put(numbered(i)).sha256}})});
}

}  // namespace

TEST_CASE("Journal conformance: SQLite") {
  const support::TemporaryFolder folder;
  int count = 0;
  check_journal([&] { return SqliteJournal(folder / std::to_string(count++)); });
}

TEST_CASE("SqliteJournal: what was written is there when it is opened again") {
  const support::TemporaryFolder folder;
  const Blob blob{offsite::sha256_hex(numbered(1)), 200};
  {
    SqliteJournal journal(folder.path());
    journal.append({"run", Json::object({{"run", "r"}})});
    journal.write_part("a", blob, 0, std::span<const std::byte>(numbered(1)).first(77));
  }
  SqliteJournal journal(folder.path());
  CHECK(journal.records().size() == 1);
  CHECK(journal.open_part("a", blob) == 77);
}

TEST_CASE(
    "SqliteJournal: a second process is refused, and so is a journal of another version or no journal") {
  const support::TemporaryFolder folder;
  {
    const SqliteJournal first(folder.path());
    CHECK(support::message_of<offsite::ArgumentError>([&] { SqliteJournal{folder.path()}; }) ==
          "the journal in " + folder.path().string() + " is in use by another process");
  }
  offsite::federation::detail::Database(folder / "journal.sqlite").execute("PRAGMA user_version = 9");
  CHECK(support::message_of<offsite::ArgumentError>([&] { SqliteJournal{folder.path()}; }) ==
        "the journal in " + folder.path().string() + " is of version 9, but this reads version 1");
  support::write_file(folder / "journal.sqlite", std::string(5000, 'x'));
  std::filesystem::remove(folder / "journal.sqlite-wal");
  CHECK(support::message_of<offsite::ArgumentError>([&] {
          SqliteJournal{folder.path()};
        }).find("cannot be used: file is not a database") != std::string::npos);
}

TEST_CASE("SqliteJournal: an update that was seen as it came is not read again to be checked") {
  const support::TemporaryFolder folder;
  const std::vector<float> numbers(5000, 2);
  const auto update = safetensors_bytes(std::vector<offsite::NamedView>{
      {"a", {offsite::Dtype::kF32, {5000}, std::as_bytes(std::span(numbers))}}});
  const TrainedShapes shapes{{"a", {5000}}};
  const Blob blob{offsite::sha256_hex(update), update.size()};
  SqliteJournal journal(folder / "whole");
  journal.write_part("a", blob, 0, std::span(update).first(8192));
  journal.write_part("a", blob, 8192, std::span(update).subspan(8192));
  REQUIRE(journal.finish_part("a", blob));
  const auto view = journal.view(blob.sha256);
  CHECK(view.squares == 20'000.0);
  CHECK(check_update(view, shapes).norm == check_update(view.bytes, shapes).norm);
  journal.drop(blob.sha256);
  journal.put(update);
  CHECK_FALSE(journal.view(blob.sha256).squares.has_value());

  {
    SqliteJournal cut(folder / "cut");
    cut.write_part("a", blob, 0, std::span(update).first(8192));
  }
  SqliteJournal again(folder / "cut");
  again.write_part("a", blob, 8192, std::span(update).subspan(8192));
  REQUIRE(again.finish_part("a", blob));
  CHECK_FALSE(again.view(blob.sha256).squares.has_value());
  CHECK(check_update(again.view(blob.sha256), shapes).norm == std::sqrt(20'000.0));
}

TEST_CASE("SqliteJournal: no name leads out of the folder") {
  const support::TemporaryFolder folder;
  SqliteJournal journal(folder.path());
  const Blob blob{offsite::sha256_hex(numbered(1)), 200};
  CHECK_THROWS_AS((void)journal.open_part("../evil", blob), offsite::ArgumentError);
  CHECK_THROWS_AS((void)journal.contains("../lock"), offsite::ArgumentError);
}

TEST_CASE("SqliteJournal: views show rounds, clients and updates") {
  const support::TemporaryFolder folder;
  SqliteJournal journal(folder.path());
  const auto add = [&](const char* kind, std::initializer_list<offsite::JsonMember> fields) {
    journal.append({kind, Json::object(fields)});
  };
  add("run", {{"run", "r"}});
  add("client", {{"client", "a"}, {"samples", 30}});
  add("client", {{"client", "b"}, {"samples", 4}});
  add("round", {{"round", 1}, {"chosen", std::vector<std::string>{"a", "b"}}});
  add("update", {{"round", 1}, {"client", "a"}, {"samples", 30}, {"norm", 0.5}});
  add("refused", {{"round", 1}, {"client", "b"}, {"reason", "NaN"}});
  add("decided", {{"round", 1}, {"kept", true}, {"loss", 1.25}});
  const auto row = [&](const char* sql, int columns) {
    std::string text;
    offsite::federation::detail::Database(folder / "journal.sqlite").run(sql, {}, [&](auto column) {
      for (int i = 0; i < columns; ++i) text += column(i) + "|";
    });
    return text;
  };
  CHECK(row("SELECT round, chosen, updates, refused, loss, kept FROM rounds", 6) ==
        "1|[\"a\",\"b\"]|1|1|1.25|1|");
  CHECK(row("SELECT client, samples FROM clients", 2) == "a|30|b|4|");
  CHECK(row("SELECT round, client, outcome, norm, reason FROM updates", 5) ==
        "1|a|update|0.5||1|b|refused||NaN|");
}

TEST_CASE("SqliteJournal: killed at any instant it loses nothing that was written, and opens again") {
  const support::TemporaryFolder folder;
  offsite::RandomStream random(11);
  std::size_t before = 0;
  for (int kill = 0; kill < 10; ++kill) {
    const auto child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) write_for_ever(folder.path());
    ::usleep(static_cast<useconds_t>(20'000 + random.below(80'000)));
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    SqliteJournal journal(folder.path());
    const auto records = journal.records();
    CHECK(records.size() >= before);
    before = records.size();
    for (std::size_t i = 0; i < records.size(); ++i) {
      CHECK(records[i].fields.at("i").get<std::size_t>() == i);
      const auto hash = records[i].fields.at("sha256").get<std::string>();
      CHECK(offsite::sha256_hex(journal.view(hash).bytes) == hash);
    }
  }
  CHECK(before > 10);
}

}  // namespace sqlite_journal_test
