#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "federation/toy.hpp"
#include "offsite/aggregation/fed_avg.hpp"
#include "offsite/federation.hpp"
#include "offsite/transport/directory.hpp"
#include "offsite/transport/in_process.hpp"
#include "offsite/transport/pump.hpp"

#include "support/test.hpp"

using namespace offsite;
using namespace offsite::federation;

namespace {

const toy::Numbers kTarget{1, 2, 3, 4, 5, 6, 7};

/// Does a machine's work at once, on a transport.
template <class T>
struct Host {
  T transport;
  MemoryJournal* journal;
  AnswerQueue answers;
  TrainedShapes shapes;
  bool over = false;
  std::string error;
  std::vector<std::string> notices;

  void operator()(Send send) { transport.send(send.peer, encode(send.message)); }
  void operator()(const CheckUpdate& request) {
    const auto facts = check_update(journal->view(request.sha256).bytes, shapes);
    answers.put(Checked{request.peer, request.sha256, facts.norm, facts.error});
  }
  void operator()(const Aggregate& request) { answers.put(aggregate_round(FedAvg{}, request, *journal)); }
  void operator()(const Score& request) {
    answers.put(
        Scored{request.sha256, toy::loss(toy::numbers_of(journal->view(request.sha256).bytes), kTarget), ""});
  }
  void operator()(const Install& request) { answers.put(Installed{request.welcome.run, ""}); }
  void operator()(const Train& request) {
    auto numbers = toy::numbers_of(journal->view(request.round.global.sha256).bytes);
    for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = 0.5f * (kTarget[i] - numbers[i]);
    answers.put(Trained{request.round.round, journal->put(toy::bytes_of(numbers)), 10, 1, 0.1, ""});
  }
  void operator()(const CancelTraining&) {}
  void operator()(Notice notice) { notices.push_back(std::move(notice.text)); }
  void operator()(const Finish& finish) {
    over = true;
    error = finish.error;
  }
};

/// A run of two rounds with two clients on threads. \param end  gives the transport of a name
template <class End>
void run_two_rounds(End&& end, const Timing& timing) {
  MemoryJournal journal;
  const auto start = toy::bytes_of({});
  OwnerOptions options;
  options.rounds = 2;
  options.min_clients = 2;
  options.names = {"lab-a", "lab-b"};
  options.timing = timing;
  RunDescription run;
  run.run = "toy-1";
  run.split = Json::object({{"model_type", "toy"}});
  run.global = journal.put(start);
  const std::vector<std::byte> part(5000, std::byte{7});
  run.offer = {{"frozen", journal.put(part)}};
  run.max_update_bytes = most_update_bytes(trained_shapes(start));

  std::string errors[2];
  std::vector<std::byte> finals[2];
  std::vector<std::jthread> threads;
  for (const std::size_t i : {0u, 1u}) {
    threads.emplace_back([&, i] {
      MemoryJournal own;
      Host<decltype(end(""))> host{end(options.names[i]), &own, {}, {}, false, {}, {}};
      ClientOptions how;
      how.samples = 10;
      how.nonce = i;
      how.timing = timing;
      Node node(Client(how, {}), own, host);
      node.start();
      pump(
          node, host.transport, host.answers, [&] { return host.over; }, [](auto&&...) {}, 20);
      errors[i] = host.error;
      const auto view = own.view(node.machine().state().round == 2
                                     ? sha256_hex(toy::bytes_of({.75f, 1.5f, 2.25f, 3, 3.75f, 4.5f, 5.25f}))
                                     : "");
      finals[i].assign(view.bytes.begin(), view.bytes.end());
    });
  }
  Host<decltype(end(""))> host{end(std::string(kOwner)), &journal, {}, trained_shapes(start), false, {}, {}};
  Node node(Owner(options, run, {}), journal, host);
  node.start();
  pump(
      node, host.transport, host.answers, [&] { return host.over; }, [](auto&&...) {}, 20);
  threads.clear();
  CHECK(host.error.empty());
  CHECK(errors[0].empty());
  CHECK(errors[1].empty());
  const auto view = journal.view(node.machine().state().global.sha256);
  CHECK(std::equal(view.bytes.begin(), view.bytes.end(), finals[0].begin(), finals[0].end()));
  CHECK(finals[0] == finals[1]);
  CHECK(node.machine().state().loss == doctest::Approx(140.0 / 16));
}

}  // namespace

TEST_CASE("InProcessTransport: a run of two rounds") {
  const auto network = std::make_shared<InProcessNetwork>();
  run_two_rounds([&](const std::string& name) { return InProcessTransport(network, name); },
                 {500, 10'000, 512, 2048});
}

TEST_CASE("DirectoryTransport: a run of two rounds in a shared folder leaves no message behind") {
  const support::TemporaryFolder folder;
  run_two_rounds([&](const std::string& name) { return DirectoryTransport(folder.path(), name); },
                 {2'000, 10'000, 2048, 1 << 20});
}

TEST_CASE("DirectoryTransport: order, foreign files, files that are too large") {
  const support::TemporaryFolder folder;
  DirectoryTransport owner(folder.path(), "owner"), client(folder.path(), "lab-a");
  for (int i = 0; i < 20; ++i) client.send("owner", std::vector<std::byte>(1, static_cast<std::byte>(i)));
  support::write_file(folder / "lab-a-to-owner/notes.txt", "not ours");
  support::write_file(folder / "lab-a-to-owner/00.message", "");
  std::filesystem::resize_file(folder / "lab-a-to-owner/00.message", kMostFrame + 1);
  for (int i = 0; i < 20; ++i) {
    const auto arrival = owner.receive(0);
    REQUIRE(arrival.has_value());
    CHECK(arrival->peer == "lab-a");
    CHECK(std::to_integer<int>(arrival->frame.at(0)) == i);
  }
  CHECK(!owner.receive(0).has_value());
  CHECK(std::filesystem::exists(folder / "lab-a-to-owner/notes.txt"));
  CHECK(std::filesystem::exists(folder / "lab-a-to-owner/00.message.refused"));
  CHECK_THROWS_AS(owner.send("../up", {}), ArgumentError);
}
