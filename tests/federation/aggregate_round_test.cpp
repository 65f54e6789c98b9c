#include "offsite/federation/aggregate_round.hpp"

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "offsite/aggregation/any_aggregation.hpp"
#include "offsite/core/random.hpp"
#include "offsite/federation/memory_journal.hpp"

#include "support/test.hpp"

namespace aggregate_round_test {

using namespace offsite;
using namespace offsite::federation;

namespace {

/// A file of the tensors "a" (5) and "b" (2, 3) with these numbers.
std::vector<std::byte> file_of(const Eigen::VectorXf& numbers) {
  const auto bytes = std::as_bytes(std::span(numbers.data(), 11));
  return safetensors_bytes(std::vector<NamedView>{{"a", {Dtype::kF32, {5}, bytes.first(20)}},
                                                  {"b", {Dtype::kF32, {2, 3}, bytes.subspan(20)}}});
}

/// The same by another writer: "b" lies before "a", or the header's length leaves the numbers where no float may lie.
std::vector<std::byte> foreign_file_of(const Eigen::VectorXf& numbers, bool b_first) {
  const std::string a = b_first ? "[24,44]" : "[0,20]", b = b_first ? "[0,24]" : "[20,44]";
  std::string text = R"({"a":{"dtype":"F32","shape":[5],"data_offsets":)" + a +
                     R"(},"b":{"dtype":"F32","shape":[2,3],"data_offsets":)" + b + "}}";
  while (text.size() % 8 != (b_first ? 0 : 3)) text += ' ';
  const std::uint64_t length = text.size();
  std::vector<std::byte> file(sizeof length + text.size() + 44);
  std::memcpy(file.data(), &length, sizeof length);
  std::memcpy(file.data() + sizeof length, text.data(), text.size());
  auto* data = file.data() + sizeof length + text.size();
  std::memcpy(data + (b_first ? 24 : 0), numbers.data(), 20);
  std::memcpy(data + (b_first ? 0 : 20), numbers.data() + 5, 24);
  return file;
}

Eigen::VectorXf random_vector(std::uint64_t key) {
  RandomStream random(key);
  Eigen::VectorXf v(11);
  for (auto& x : v) x = static_cast<float>(random.uniform() - 0.5);
  return v;
}

}  // namespace

TEST_CASE("aggregate_round: updates are read where the journal has them, whoever wrote their files") {
  MemoryJournal journal;
  Aggregate request;
  request.round = 1;
  const auto global = random_vector(1000);
  request.global = journal.put(file_of(global)).sha256;
  std::vector<ClientUpdate> updates;
  for (std::uint64_t i = 0; i < 19; ++i) {  // more than are taken together
    updates.push_back({random_vector(i), 1.0 + static_cast<double>(i)});
    const auto& delta = updates.back().delta;
    const auto file = i % 3 == 0 ? file_of(delta) : foreign_file_of(delta, i % 3 == 1);
    request.updates.push_back({"client", journal.put(file).sha256, updates.back().weight});
  }
  for (const auto* text : {"fedavg", "fedprox", "norm:0.5+fedadam", "trimmed_mean"}) {
    CAPTURE(text);
    const auto policy = AnyAggregation::parse(text);
    AnyAggregation::State state;
    const auto expected = policy.aggregate(global, updates, state);
    const auto answer = aggregate_round(policy, request, journal);
    REQUIRE(answer.error.empty());
    CHECK(federation::detail::flattened(read_safetensors(journal.view(answer.global.sha256).bytes, "it")) ==
          expected);
  }
}

TEST_CASE("aggregate_round: only numbers that lie apart are copied") {
  const auto numbers = random_vector(7);
  const auto in_place = [&](const std::vector<std::byte>& file) {
    const federation::detail::HeldUpdate held({file, nullptr, {}}, 2);
    const auto view = held.view();
    CHECK(view.delta == numbers);
    CHECK(view.weight == 2);
    return reinterpret_cast<const std::byte*>(view.delta.data()) == file.data() + file.size() - 44;
  };
  CHECK(in_place(file_of(numbers)));
  CHECK_FALSE(in_place(foreign_file_of(numbers, true)));
  CHECK_FALSE(in_place(foreign_file_of(numbers, false)));
}

TEST_CASE("aggregate_round: a number that is not finite is the round's error, first or last of many") {
  for (const std::size_t bad : {0, 17}) {
    MemoryJournal journal;
    Aggregate request;
    request.global = journal.put(file_of(random_vector(1000))).sha256;
    for (std::size_t i = 0; i < 18; ++i) {
      auto delta = random_vector(i);
      if (i == bad) delta[10] = HUGE_VALF;
      request.updates.push_back({"client", journal.put(file_of(delta)).sha256, 1});
    }
    const auto answer = aggregate_round(AnyAggregation::parse("fedavg"), request, journal);
    CHECK(answer.error.find("holds a number that is not finite") != std::string::npos);
    CHECK(answer.global.sha256.empty());
  }
}

}  // namespace aggregate_round_test
