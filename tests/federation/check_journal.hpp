#pragma once
#include <algorithm>
#include <string>
#include <vector>

#include "offsite/federation/journal.hpp"
#include "offsite/io/sha256.hpp"
#include "support/test.hpp"

/// What every journal must do, whatever it is kept in. \param make  gives another, empty one at each call
template <class Make>
void check_journal(Make&& make) {
  using namespace offsite::federation;
  using offsite::Json;
  std::vector<std::byte> bytes(1000);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * i);
  const std::span<const std::byte> all(bytes);
  const Blob blob{offsite::sha256_hex(bytes), bytes.size()};

  SUBCASE("records come back as they were, in their order") {
    auto journal = make();
    CHECK(journal.records().empty());
    std::vector<Record> records;
    for (int i = 0; i < 20; ++i)
      records.push_back({i % 2 ? "odd" : "even",
                         Json::object({{"number", i}, {"text", "a \"näme\"\n"}, {"loss", 0.1 * i}})});
    for (const auto& record : records) journal.append(record);
    CHECK((journal.records() == records));
  }
  SUBCASE("blobs") {
    auto journal = make();
    CHECK(!journal.contains(blob.sha256));
    CHECK_THROWS_AS((void)journal.view(blob.sha256), offsite::ProtocolError);
    CHECK((journal.put(bytes) == blob));
    CHECK((journal.put(bytes) == blob));
    CHECK(journal.contains(blob.sha256));
    const auto view = journal.view(blob.sha256);
    CHECK(std::equal(view.bytes.begin(), view.bytes.end(), bytes.begin(), bytes.end()));
    journal.drop(blob.sha256);
    journal.drop(blob.sha256);
    CHECK(!journal.contains(blob.sha256));
    CHECK(view.bytes[5] == bytes[5]);  // it lives as long as its owner
  }
  SUBCASE("parts grow, are cut back, become blobs") {
    auto journal = make();
    CHECK(journal.open_part("a", blob) == 0);
    journal.write_part("a", blob, 0, all.first(600));
    CHECK(journal.open_part("a", blob) == 600);
    CHECK(journal.open_part("b", blob) == 0);
    journal.write_part("a", blob, 500, all.subspan(500));
    CHECK(journal.open_part("a", blob) == 1000);
    CHECK(!journal.contains(blob.sha256));
    CHECK(journal.finish_part("a", blob));
    CHECK(journal.contains(blob.sha256));
    CHECK(journal.open_part("a", blob) == 0);
    CHECK(!journal.finish_part("a", blob));
  }
  SUBCASE("what counts is what a part holds at its end, not what came first") {
    auto journal = make();
    auto wrong = bytes;
    wrong[550] ^= std::byte{1};
    const auto last = [&](std::vector<std::byte>& first, std::vector<std::byte>& second) {
      journal.write_part("a", blob, 0, std::span(first).first(600));
      journal.write_part("a", blob, 500, std::span(second).subspan(500, 100));
      journal.write_part("a", blob, 600, all.subspan(600));
      return journal.finish_part("a", blob);
    };
    CHECK(!last(bytes, wrong));
    CHECK(last(wrong, bytes));
  }
  SUBCASE("a part whose bytes have another hash is gone") {
    auto journal = make();
    journal.write_part("a", blob, 0, all.first(999));
    CHECK(!journal.finish_part("a", blob));  // too short
    auto wrong = bytes;
    wrong[7] ^= std::byte{1};
    journal.write_part("a", blob, 0, wrong);
    CHECK(!journal.finish_part("a", blob));
    CHECK(journal.open_part("a", blob) == 0);
    CHECK(!journal.contains(blob.sha256));
    journal.write_part("a", blob, 0, wrong);
    journal.drop_part("a", blob);
    journal.drop_part("a", blob);
    CHECK(journal.open_part("a", blob) == 0);
  }
}
