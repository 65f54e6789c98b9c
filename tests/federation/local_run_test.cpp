#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "federation/toy.hpp"
#include "offsite/aggregation/any_aggregation.hpp"
#include "offsite/federation.hpp"

#include "support/test.hpp"

namespace local_run_test {

using namespace offsite;
using namespace offsite::federation;

namespace {

const toy::Numbers kTarget{1, 2, 3, 4, 5, 6, 7};

struct LocalToy {
  MemoryJournal journal;
  OwnerOptions options;
  RunDescription run;
  std::vector<LocalClient> clients;
  std::vector<std::string> notices, trained;
  LocalWork work;
  float damage = 0;  // added to one number of client-2's update

  explicit LocalToy(std::int64_t count) {
    options.rounds = 3;
    options.max_norm_ratio = 1e6;
    run.run = "toy-1";
    run.split = Json::object({{"model_type", "toy"}});
    run.global = journal.put(toy::bytes_of({}));
    const std::vector<std::byte> part(5000, std::byte{7});
    run.offer = {{"frozen", journal.put(part)}};
    run.max_update_bytes = most_update_bytes(trained_shapes(toy::bytes_of({})));
    for (std::int64_t i = 1; i <= count; ++i) clients.push_back({formatted("client-{}", i), 10 * i});
    work.score = [](std::span<const std::byte> adapters) {
      return toy::loss(toy::numbers_of(adapters), kTarget);
    };
    work.train = [this](std::size_t client, const Round& round, std::span<const std::byte> adapters,
                        std::vector<std::byte>& update) {
      auto numbers = toy::numbers_of(adapters);
      for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = 0.5f * (kTarget[i] - numbers[i]);
      if (client == 1) numbers[0] += damage;
      update = toy::bytes_of(numbers);
      trained.push_back(clients[client].name);
      return Trained{round.round, {}, clients[client].samples, 2, 0.25, ""};
    };
    work.notice = [this](const std::string& text) { notices.push_back(text); };
    aggregate_by("fedavg");
  }
  void aggregate_by(const std::string& policy) {
    work.aggregate = [this, policy](const Aggregate& request) {
      return aggregate_round(AnyAggregation::parse(policy), request, journal);
    };
  }
  OwnerState go() {
    (void)journal.put(toy::bytes_of({}));  // as at every start
    return run_locally(options, run, clients, journal, work);
  }
  RunSummary summary() {
    RunSummary summary;
    for (const auto& record : journal.records()) summary.apply(record);
    return summary;
  }
};

}  // namespace

TEST_CASE("run_locally: all clients take part in all rounds, and the model gets better") {
  LocalToy toy(3);
  const auto state = toy.go();
  CHECK(state.finished);
  CHECK(state.round == 3);
  CHECK(*state.loss == doctest::Approx(140.0 / 64));
  CHECK(toy.trained.size() == 9);
  const auto summary = toy.summary();
  REQUIRE(summary.rounds.size() == 3);
  CHECK(summary.state() == "finished");
  CHECK(summary.baseline == doctest::Approx(140));
  CHECK(summary.loss() == doctest::Approx(140.0 / 64));
  CHECK(summary.rounds[1].samples == 60);
  CHECK(summary.rounds[1].updates == 3);
  CHECK(summary.rounds[1].steps == 6);
  CHECK(summary.rounds[1].training_loss == doctest::Approx(0.25));
  CHECK(summary.rounds[1].outcome() == "kept");
  CHECK(summary.clients.at("client-2").samples == 20);
  CHECK(summary.clients.at("client-2").updates == 3);
}

TEST_CASE("run_locally: a fraction of the clients, drawn from all of them, the same for the same seed") {
  LocalToy toy(8), again(8), other(8);
  for (auto* one : {&toy, &again, &other}) one->options.fraction = 0.25;
  other.options.seed = 1;
  (void)toy.go();
  (void)again.go();
  (void)other.go();
  CHECK(toy.trained.size() == 6);
  CHECK(toy.trained == again.trained);
  CHECK(toy.trained != other.trained);
}

TEST_CASE("run_locally: what is wrong with an update is found as over a network") {
  LocalToy toy(3);
  toy.damage = std::numeric_limits<float>::quiet_NaN();
  (void)toy.go();
  const auto summary = toy.summary();
  CHECK(summary.rounds[0].refused == 1);
  CHECK(summary.rounds[0].updates == 2);
  CHECK(summary.clients.at("client-2").last_refusal ==
        "tensor 'block.0.weight' of the update holds a number that is not finite");
  REQUIRE(!toy.notices.empty());
  CHECK(toy.notices[0].starts_with("client-2: the owner refuses the update of round 1: tensor 'block.0"));

  LocalToy worse(3);
  worse.damage = 1e6f;
  CHECK(*worse.go().loss == doctest::Approx(140));  // never worse than before
  CHECK(worse.summary().rounds[2].outcome() == "rolled back");
  LocalToy robust(3);
  robust.damage = 1e6f;
  robust.aggregate_by("norm:100+coordinate_median");
  CHECK(*robust.go().loss < 10);
}

TEST_CASE("run_locally: a policy with a state goes on where a run was cut") {
  LocalToy whole(2);
  whole.aggregate_by("fedadam:learning_rate=0.5");
  const auto expected = whole.go();
  for (std::size_t cut = 2; cut < whole.journal.records().size(); ++cut) {
    LocalToy toy(2);
    toy.aggregate_by("fedadam:learning_rate=0.5");
    struct Killed {};
    ObservedJournal observed(toy.journal, [&, left = cut](const Record&) mutable {
      if (left-- == 0) throw Killed{};
    });
    CHECK_THROWS_AS((void)run_locally(toy.options, toy.run, toy.clients, observed, toy.work), Killed);
    CHECK(toy.go().global == expected.global);
  }
}

TEST_CASE("run_locally: a run that cannot go on ends in an error") {
  LocalToy toy(2);
  toy.work.train = [](std::size_t, const Round& round, auto, auto&) {
    return Trained{round.round, {}, 0, 0, 0, "there was no disk"};
  };
  toy.options.deadline_ms = 10'000;
  toy.options.max_extensions = 0;
  CHECK_THROWS_WITH_AS((void)toy.go(), doctest::Contains("the run ended early: round 1 has 0 of at least 1"),
                       Error);
  CHECK(toy.summary().clients.at("client-1").left == "its training failed");
  CHECK(toy.summary().state().starts_with("ended early: "));
  LocalToy twice(1);
  twice.clients.push_back({"client-1", 1});
  CHECK_THROWS_WITH_AS((void)twice.go(), doctest::Contains("'client-1' cannot name a client, or names two"),
                       Error);
}

TEST_CASE("RunSummary: a loss that is not finite, and records out of place") {
  RunSummary summary;
  summary.apply({"run", Json::object({{"run", "r"}, {"global", Json()}, {"rounds", 4}})});
  CHECK(summary.state() == "round 0 of 4");
  summary.apply({"round", Json::object({{"round", 1}, {"chosen", std::vector<std::string>{"a"}}})});
  CHECK(summary.rounds[0].outcome() == "open");
  summary.apply({"decided", Json::object({{"round", 1}, {"kept", false}, {"loss", Json()}, {"error", ""}})});
  CHECK(std::isnan(summary.rounds[0].loss));
  CHECK(summary.rounds[0].to_json().at("loss").is_null());
  CHECK_THROWS_AS(summary.apply({"decided", Json::object({{"round", 2}})}), ProtocolError);
}

}  // namespace local_run_test
