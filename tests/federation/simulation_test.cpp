#include <cstdint>
#include <cstdlib>
#include <map>
#include <string>

#include "federation/simulation.hpp"

#include "support/test.hpp"

namespace simulation_test {

namespace {

std::int64_t number_of(const char* variable, std::int64_t otherwise) {
  const char* text = std::getenv(variable);
  return text == nullptr ? otherwise : std::atoll(text);
}

bool nightly() {
  const char* text = std::getenv("OFFSITE_NIGHTLY");
  return text != nullptr && std::string_view(text) == "1";
}

}  // namespace

// OFFSITE_FEDERATION_RUNS sets how many runs, OFFSITE_FEDERATION_SEED the first one's seed: what a failure prints.
TEST_CASE("federation: whatever fails, no accepted update is lost or counted twice, and every run ends") {
  const auto runs = number_of("OFFSITE_FEDERATION_RUNS", nightly() ? 1'000'000 : 20'000);
  const auto first = number_of("OFFSITE_FEDERATION_SEED", 1);
  Simulation::Outcome sum;
  std::int64_t finished = 0, gained = 0, failures = 0;
  std::map<std::string, std::int64_t> errors;
  for (std::int64_t i = 0; i < runs && failures < 10; ++i) {
    const auto seed = static_cast<std::uint64_t>(first + i);
    const auto outcome = Simulation(seed).run();
    if (!outcome.broken.empty()) {
      ++failures;
      FAIL_CHECK("OFFSITE_FEDERATION_SEED=" << seed << " OFFSITE_FEDERATION_RUNS=1: " << outcome.broken);
    }
    finished += outcome.finished;
    gained += outcome.gain > 0;
    if (!outcome.error.empty()) ++errors[outcome.error.substr(0, outcome.error.find(';')).substr(8)];
    sum.crashes += outcome.crashes;
    sum.accepted += outcome.accepted;
    sum.refused_updates += outcome.refused_updates;
    sum.rounds += outcome.rounds;
    sum.kept += outcome.kept;
    sum.extensions += outcome.extensions;
    sum.messages += outcome.messages;
    sum.virtual_ms += outcome.virtual_ms;
  }
  MESSAGE(runs << " runs: " << finished << " finished, " << gained << " with a better model; " << sum.rounds
               << " rounds, " << sum.kept << " kept; " << sum.accepted << " updates accepted, "
               << sum.refused_updates << " refusals; " << sum.crashes << " crashes, " << sum.extensions
               << " extensions, " << sum.messages << " messages, " << sum.virtual_ms / 1000
               << " s of virtual time");
  // A simulation in which nothing happens would find nothing.
  if (runs < 1'000) return;
  CHECK(finished > runs / 2);
  CHECK(gained > runs / 2);
  CHECK(sum.crashes > runs / 2);
  CHECK(sum.refused_updates > runs / 20);
  CHECK(sum.rounds - sum.kept > runs / 100);
  CHECK(sum.extensions > runs / 100);
}

TEST_CASE("federation: a seed fixes its run") {
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    const auto a = Simulation(seed).run(), b = Simulation(seed).run();
    CHECK(a.trace == b.trace);
    CHECK(a.messages == b.messages);
    CHECK(a.virtual_ms == b.virtual_ms);
  }
}

}  // namespace simulation_test
