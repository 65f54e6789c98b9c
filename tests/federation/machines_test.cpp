#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "offsite/federation.hpp"

#include "support/test.hpp"

namespace machines_test {

using namespace offsite;
using namespace offsite::federation;

namespace {

const std::string kStart(64, '0'), kUpdate(64, 'a'), kOther(64, 'b'), kNext(64, 'c');

/// An owner whose answers are typed in by hand. Messages from and to its clients are those of a friendly network.
struct Desk {
  OwnerOptions options;
  RunDescription run;
  std::vector<Record> records;
  std::optional<Owner> owner;
  std::vector<Action> seen;  // of the last event
  std::int64_t now = 0;

  explicit Desk(OwnerOptions o = {}) : options(std::move(o)) {
    run.run = "run-1";
    run.split = Json::object({{"model_type", "gpt2"}, {"blocks", Json::object({{"depth", 12}})}});
    run.global = {kStart, 100};
    run.max_update_bytes = 1000;
    restart();
    give(Scored{kStart, 2.0, ""});
  }
  void restart() {
    owner.emplace(options, run, records);
    take(owner->start());
  }
  void take(Actions actions) {
    for (const auto& action : actions)
      if (const auto* write = std::get_if<Write>(&action)) records.push_back(write->record);
    seen = std::move(actions);
  }
  void give(Event event) { take(owner->handle(std::move(event))); }
  void say(const std::string& client, Message message) { give(Arrived{client, std::move(message)}); }
  void join(const std::string& client, std::int64_t round = 0) {
    say(client, Hello{kProtocolVersion, "", 1, Json::object(), 10});
    say(client, Status{"run-1", Doing::kReady, round});
  }
  /// Sends an update that is fetched whole and found to be of that norm, or wrong.
  void send_update(const std::string& client, std::int64_t round, const std::string& hash = kUpdate,
                   double norm = 1, const std::string& error = "", std::int64_t samples = 10) {
    say(client, UpdateReady{"run-1", round, {hash, 50}, samples, 1, 0.5});
    if (find<OpenPart>() == nullptr) return;
    give(PartOpened{client, {hash, 50}, 0, false});
    say(client, Chunk{hash, 0, std::vector<std::byte>(50)});
    give(PartFinished{client, {hash, 50}, true});
    give(Checked{client, hash, norm, error});
  }
  void wait(std::int64_t ms) {
    for (const auto until = now + ms; now < until;)
      give(Tick{now += std::min<std::int64_t>(1000, until - now)});
  }
  template <class A>
  [[nodiscard]] const A* find() const {
    for (const auto& action : seen)
      if (const auto* found = std::get_if<A>(&action)) return found;
    return nullptr;
  }
  template <class M>
  [[nodiscard]] const M* sent() const {
    for (const auto& action : seen)
      if (const auto* send = std::get_if<Send>(&action))
        if (const auto* found = std::get_if<M>(&send->message)) return found;
    return nullptr;
  }
  [[nodiscard]] std::string refusal() const {
    return sent<Refused>() == nullptr ? "" : sent<Refused>()->reason;
  }
};

OwnerOptions options_for(std::int64_t rounds, std::int64_t min_clients) {
  OwnerOptions options;
  options.rounds = rounds;
  options.min_clients = min_clients;
  return options;
}

}  // namespace

TEST_CASE("Owner: whoever cannot take part hears why in one sentence") {
  auto options = options_for(1, 1);
  options.names = {"lab-a", "lab-b"};
  options.max_clients = 1;
  Desk desk(options);
  const auto hello = [&](const std::string& name, Hello message) {
    desk.say(name, std::move(message));
    return desk.refusal();
  };
  CHECK(hello("lab-c", {}) == "the name 'lab-c' is not on the owner's list of clients");
  CHECK(hello("lab-a", {.protocol = 7}) ==
        "the client speaks version 7 of the protocol, but the owner version 1");
  CHECK(hello("lab-a", {.split = Json::object({{"model_type", "opt"}})}) ==
        "'model_type' of the split is \"gpt2\", but \"opt\" was expected");
  CHECK(hello("lab-a", {.split = Json::object({{"blocks", Json::object({{"depth", 24}})}})}) ==
        "'blocks.depth' of the split is 12, but 24 was expected");
  CHECK(hello("lab-a", {.split = Json::object({{"dtype", "float32"}})}) ==
        "the split has no field 'dtype', which should be \"float32\"");
  CHECK(hello("lab-a", {.samples = 1'000'000'000}) ==
        "the client claims 1000000000 samples, but the owner allows 1000000 (max_samples)");
  CHECK(hello("lab-a", {.split = Json::object({{"model_type", "gpt2"}})}).empty());
  CHECK(desk.sent<Welcome>() != nullptr);
  CHECK(hello("lab-b", {}) == "the run has its 1 clients already (max_clients)");
  desk.say("lab-b", Status{"run-1", Doing::kReady, 0});
  CHECK(desk.refusal() == "the owner does not know this client: it must say hello first");
}

TEST_CASE("Owner: updates that cannot be used are refused in one sentence, once and for all of the round") {
  Desk desk(options_for(3, 2));
  desk.join("a");
  desk.join("b");
  CHECK(desk.sent<Round>() != nullptr);
  desk.send_update("a", 1, kUpdate, 1.0);
  REQUIRE(desk.sent<Accepted>() != nullptr);

  const auto refused = [&](const std::string& wanted) {
    CHECK(desk.refusal() == wanted);
    CHECK(desk.records.back().kind == "refused");
  };
  SUBCASE("NaN") {
    desk.send_update("b", 1, kOther, 0, "tensor 'w' of the update holds a number that is not finite");
    refused("tensor 'w' of the update holds a number that is not finite");
    desk.send_update("b", 1, kNext);  // a second try in the same round
    CHECK(desk.refusal() == "tensor 'w' of the update holds a number that is not finite");
  }
  SUBCASE("100 times the usual norm") {
    desk.send_update("b", 1, kOther, 100);
    refused(
        "the update's norm is 100, 100 times the usual 1, but the owner allows 20 times (max_norm_ratio)");
  }
  SUBCASE("a billion samples") {
    desk.send_update("b", 1, kOther, 1, "", 1'000'000'000);
    refused("the update claims 1000000000 samples, but the owner allows 1 to 1000000 (max_samples)");
  }
  SUBCASE("larger than what is trained") {
    desk.say("b", UpdateReady{"run-1", 1, {kOther, 1001}, 10, 1, 0});
    refused("the update has 1001 bytes, but the trained tensors take at most 1000");
  }
  SUBCASE("a larger one while the first is being checked") {
    desk.say("b", UpdateReady{"run-1", 1, {kOther, 50}, 10, 1, 0});
    desk.give(PartOpened{"b", {kOther, 50}, 0, false});
    desk.say("b", Chunk{kOther, 0, std::vector<std::byte>(50)});
    desk.give(PartFinished{"b", {kOther, 50}, true});
    CHECK(desk.find<CheckUpdate>() != nullptr);
    desk.say("b", UpdateReady{"run-1", 1, {kNext, 1001}, 10, 1, 0});
    refused("the update has 1001 bytes, but the trained tensors take at most 1000");
    REQUIRE(desk.find<DropBlob>() != nullptr);
    CHECK(desk.find<DropBlob>()->sha256 == kOther);
    desk.give(Checked{"b", kOther, 1, ""});
    CHECK(desk.seen.empty());
  }
  SUBCASE("forged: other bytes than announced") {
    desk.say("b", UpdateReady{"run-1", 1, {kOther, 50}, 10, 1, 0});
    for (int attempt = 0; attempt < 2; ++attempt) {
      if (attempt == 0) desk.give(PartOpened{"b", {kOther, 50}, 0, false});
      desk.say("b", Chunk{kOther, 0, std::vector<std::byte>(50)});
      desk.give(PartFinished{"b", {kOther, 50}, false});
    }
    refused("the update's bytes do not have the SHA-256 that was announced");
  }
}

TEST_CASE(
    "Owner: an update replayed in a later round, from a stranger, or twice counts not at all, or once") {
  Desk desk(options_for(3, 1));
  desk.join("a");
  desk.send_update("a", 1);
  REQUIRE(desk.find<Aggregate>() != nullptr);
  CHECK(desk.find<Aggregate>()->updates.size() == 1);
  desk.send_update("a", 1);  // a duplicate, while the round is aggregated
  CHECK(desk.sent<Accepted>() != nullptr);
  CHECK(desk.find<Aggregate>() == nullptr);
  desk.give(Aggregated{1, {kNext, 100}, "", ""});
  desk.give(Scored{kNext, 1.0, ""});
  CHECK(desk.owner->state().round == 2);
  desk.send_update("a", 1, kOther);
  CHECK(desk.refusal() == "round 1 was closed before the update came; the next one is open to it");
  desk.send_update("a", 3, kOther);
  CHECK(desk.refusal() == "there is no round 3 yet");
  desk.join("late");
  desk.send_update("late", 2, kOther);
  CHECK(desk.refusal() == "round 2 did not ask this client");
}

TEST_CASE("Owner: accuracy is recorded beside the loss, for people; the loss decides") {
  Desk desk(options_for(2, 1));
  desk.join("a");
  desk.send_update("a", 1);
  desk.give(Aggregated{1, {kNext, 100}, "", ""});
  desk.give(Scored{kNext, 1.5, "", 0.25});
  desk.send_update("a", 2, kOther);
  desk.give(Aggregated{2, {kOther, 100}, "", ""});
  desk.give(Scored{kOther, 1.75, "", 0.5});
  RunSummary summary;
  for (const auto& record : desk.records) summary.apply(record);
  CHECK(std::isnan(summary.baseline_accuracy));  // a score without one
  REQUIRE(summary.rounds.size() == 2);
  CHECK(summary.rounds[0].accuracy == 0.25);
  CHECK(summary.rounds[1].accuracy == 0.5);
  CHECK(!summary.rounds[1].kept);
  CHECK(summary.accuracy() == 0.25);
  CHECK(summary.rounds[1].to_json().at("accuracy") == Json(0.5));
}

TEST_CASE("Owner: a worse model is rolled back, with the policy's state; a better one is kept") {
  Desk desk(options_for(2, 1));
  desk.join("a");
  desk.send_update("a", 1);
  desk.give(Aggregated{1, {kNext, 100}, kOther, ""});
  desk.give(Scored{kNext, 2.5, ""});
  CHECK(desk.owner->state().global.sha256 == kStart);
  CHECK(desk.owner->state().policy_state.empty());
  const auto dropped = [&](const std::string& hash) {
    return std::any_of(desk.seen.begin(), desk.seen.end(), [&](const Action& action) {
      const auto* drop = std::get_if<DropBlob>(&action);
      return drop != nullptr && drop->sha256 == hash;
    });
  };
  CHECK(dropped(kNext));
  CHECK(dropped(kUpdate));
  CHECK(!dropped(kStart));
  desk.send_update("a", 2, kUpdate);
  desk.give(Aggregated{2, {kNext, 100}, kOther, ""});
  desk.give(Scored{kNext, 1.5, ""});
  CHECK(desk.owner->state().global.sha256 == kNext);
  CHECK(desk.owner->state().policy_state == kOther);
  CHECK(dropped(kStart));
  REQUIRE(desk.sent<Goodbye>() != nullptr);
  CHECK(desk.sent<Goodbye>()->global.sha256 == kNext);
  desk.say("a", Status{"run-1", Doing::kDone, 2});
  REQUIRE(desk.find<Finish>() != nullptr);
  CHECK(desk.find<Finish>()->error.empty());
}

TEST_CASE("Owner: after a start it waits for those it was told to wait for, gone ones included") {
  OwnerOptions options;
  options.start_clients = 3;
  options.rounds = 2;
  Desk desk(options);
  desk.join("a");
  desk.join("b");
  CHECK(desk.owner->state().round == 0);
  desk.say("c", Hello{kProtocolVersion, "", 1, Json::object(), 10});
  desk.say("c", Leave{"run-1", "its training failed"});
  CHECK(desk.owner->state().round == 1);
  CHECK(desk.owner->state().chosen == std::vector<std::string>{"a", "b"});
  options.start_clients = 2000;
  CHECK_THROWS_WITH_AS(options.check(),
                       "start_clients is 2000, but it must be 0 to max_clients, which is 1000",
                       ArgumentError);
}

TEST_CASE("Owner: stragglers are left out at the deadline and welcome in the next round") {
  auto options = options_for(2, 1);
  options.deadline_ms = 60'000;
  Desk desk(options);
  desk.say("slow", Hello{kProtocolVersion, "", 1, Json::object(), 10});
  desk.join("a");  // the round opens with a alone
  desk.say("slow", Status{"run-1", Doing::kReady, 0});
  CHECK(desk.sent<Wait>()->over == 1);
  desk.send_update("a", 1);
  desk.give(Aggregated{1, {kNext, 100}, "", ""});
  desk.give(Scored{kNext, 1.0, ""});
  REQUIRE(desk.owner->state().chosen == std::vector<std::string>{"a", "slow"});
  desk.send_update("a", 2, kOther);
  CHECK(desk.find<Aggregate>() == nullptr);  // slow is awaited
  desk.wait(63'000);
  REQUIRE(desk.owner->state().phase == RoundPhase::kClosed);
  desk.send_update("slow", 2);
  CHECK(desk.refusal() == "round 2 was closed before the update came; the next one is open to it");
}

TEST_CASE("Owner: waits end in errors that name who, what, how long and where to look") {
  auto options = options_for(2, 2);
  options.patience_ms = 100'000;
  options.deadline_ms = 30'000;
  options.max_extensions = 1;
  options.grace_ms = 0;
  {
    Desk desk(options);
    desk.join("a");
    desk.wait(110'000);
    CHECK(desk.owner->state().error ==
          "round 1 did not begin: 0 of at least 2 clients were here within 100 s; see whether they run and "
          "reach this owner");
  }
  Desk desk(options);
  desk.join("a");
  desk.join("b");
  desk.send_update("a", 1);
  desk.wait(70'000);
  CHECK(desk.owner->state().error ==
        "round 1 has 1 of at least 2 updates after 2 deadlines of 30 s; see the clients' messages, or give "
        "them longer");
  CHECK(desk.owner->state().extensions == 1);
}

TEST_CASE("Owner: a clock that jumps a day ahead or back ends no wait") {
  auto options = options_for(1, 1);
  options.deadline_ms = 60'000;
  Desk desk(options);
  desk.join("a");
  for (const std::int64_t jump : {86'400'000, -86'400'000, 3'600'000}) {
    desk.now += jump;
    desk.give(Tick{desk.now});
    CHECK(desk.owner->state().phase == RoundPhase::kOpen);
    CHECK(desk.owner->state().extensions == 0);
  }
}

TEST_CASE(
    "Owner: restarted after each of its records it asks for what is outstanding, and comes to the same end") {
  for (std::size_t stop = 0; stop < 7; ++stop) {
    CAPTURE(stop);
    Desk desk(options_for(1, 1));
    const auto maybe_restart = [&] {
      if (desk.records.size() == stop + 1) {
        desk.restart();
        desk.join("a", desk.owner->state().round);
      }
    };
    maybe_restart();
    desk.join("a");
    maybe_restart();
    desk.send_update("a", 1);
    maybe_restart();
    desk.give(Aggregated{1, {kNext, 100}, "", ""});
    maybe_restart();
    desk.give(Scored{kNext, 1.0, ""});
    maybe_restart();
    CHECK(desk.owner->state().finished);
    CHECK(desk.owner->state().global.sha256 == kNext);
    std::int64_t updates = 0;
    for (const auto& record : desk.records) updates += record.kind == "update";
    CHECK(updates == 1);
  }
}

TEST_CASE(
    "Owner: the choice of clients is the seed's, a fraction of those at hand, and changes with the round") {
  auto options = options_for(3, 2);
  options.fraction = 0.5;
  const auto chosen = [&](std::uint64_t seed) {
    options.seed = seed;
    Desk desk(options);
    const std::vector<std::string> names{"a", "b", "c", "d", "e", "f", "g", "h"};
    for (const auto& name : names) desk.say(name, Hello{kProtocolVersion, "", 1, Json::object(), 10});
    for (const auto& name : names) desk.say(name, Status{"run-1", Doing::kReady, 0});
    CHECK(desk.owner->state().chosen.size() == 2);  // those who were first: the round opens when two are here
    for (const auto& name : desk.owner->state().chosen)
      desk.send_update(name, 1, name == "a" ? kUpdate : kOther);
    desk.give(Aggregated{1, {kNext, 100}, "", ""});
    desk.give(Scored{kNext, 1.0, ""});
    return desk.owner->state().chosen;
  };
  CHECK(chosen(1).size() == 4);
  CHECK(chosen(1) == chosen(1));
  CHECK((chosen(1) != chosen(2) || chosen(1) != chosen(3)));
}

TEST_CASE("Owner: a journal of another run, or one that does not fit together, is refused") {
  Desk desk;
  auto other = desk.run;
  other.run = "run-2";
  CHECK(support::message_of<ArgumentError>([&] { Owner(desk.options, other, desk.records); }) ==
        "the journal is of the run 'run-1', but 'run-2' was asked for");
  auto records = desk.records;
  records.push_back({"closed", Json::object({{"round", 1}})});
  CHECK(support::message_of<ProtocolError>([&] {
          Owner(desk.options, desk.run, records);
        }).find("is damaged") != std::string::npos);
}

TEST_CASE("Client: an owner that goes away is named, with how long and what was awaited") {
  ClientOptions options;
  options.patience_ms = 30'000;
  Client client(options, {});
  (void)client.start();
  std::string error;
  for (std::int64_t now = 0; now < 60'000; now += 1000)
    for (const auto& action : client.handle(Tick{now}))
      if (const auto* finish = std::get_if<Finish>(&action)) error = finish->error;
  CHECK(error ==
        "the owner was silent for 30 s while this client waits for the owner's answer to its hello; see "
        "whether it runs and "
        "can be reached, then start this client again: it goes on where it was");
}

TEST_CASE("Client: it takes part in no other split than it expects, and answers no hello but its own") {
  ClientOptions options;
  options.nonce = 5;
  options.split = Json::object({{"model_type", "gpt2"}});
  Client client(options, {});
  (void)client.start();
  const auto error = [&](Message message) {
    std::string text;
    for (const auto& action : client.handle(Arrived{"owner", std::move(message)}))
      if (const auto* finish = std::get_if<Finish>(&action)) text = finish->error;
    return text;
  };
  CHECK(error(Refused{Refused::About::kHello, 4, "r", 0, "an old answer"}).empty());
  CHECK(error(Welcome{4, "r", Json::object(), {}, 1}).empty());
  CHECK(error(Welcome{5, "r", Json::object({{"model_type", "opt"}}), {}, 1}) ==
        "the owner's offer is not what was expected: 'model_type' of the split is \"opt\", but \"gpt2\" was "
        "expected");
}

}  // namespace machines_test
