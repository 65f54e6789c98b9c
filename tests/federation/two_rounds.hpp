#pragma once
#include <algorithm>
#include <cstddef>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "federation/toy.hpp"
#include "offsite/aggregation/fed_avg.hpp"
#include "offsite/federation.hpp"
#include "offsite/transport/pump.hpp"

#include "support/test.hpp"

/// A complete owner with two clients, on any transport.
namespace two_rounds {

using namespace offsite;
using namespace offsite::federation;

inline const toy::Numbers kTarget{1, 2, 3, 4, 5, 6, 7};

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

/// A run of two rounds with two clients on threads.
/// \param owner_end  gives the owner's transport  \param client_end  gives that of a client's name, for the owner's
template <class OwnerEnd, class ClientEnd>
void run_two_rounds(OwnerEnd&& owner_end, ClientEnd&& client_end, const Timing& timing) {
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

  Host<decltype(owner_end())> host{owner_end(), &journal, {}, trained_shapes(start), false, {}, {}};
  std::string errors[2];
  std::vector<std::byte> finals[2];
  std::vector<std::jthread> threads;
  for (const std::size_t i : {0u, 1u}) {
    threads.emplace_back([&, i] {
      MemoryJournal own;
      Host<decltype(client_end("", host.transport))> here{
          client_end(options.names[i], host.transport), &own, {}, {}, false, {}, {}};
      ClientOptions how;
      how.samples = 10;
      how.nonce = i;
      how.timing = timing;
      Node node(Client(how, {}), own, here);
      node.start();
      pump(
          node, here.transport, here.answers, [&] { return here.over; }, [](auto&&...) {}, 20);
      errors[i] = here.error;
      const auto view = own.view(node.machine().state().round == 2
                                     ? sha256_hex(toy::bytes_of({.75f, 1.5f, 2.25f, 3, 3.75f, 4.5f, 5.25f}))
                                     : "");
      finals[i].assign(view.bytes.begin(), view.bytes.end());
    });
  }
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

}  // namespace two_rounds
