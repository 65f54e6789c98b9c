#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
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

/// A run with clients on threads, each of which goes half of the way to the target in each round.
/// \param owner_end  gives the owner's transport  \param client_end  gives that of a client's name, for the owner's
template <class OwnerEnd, class ClientEnd>
void run_rounds(OwnerEnd&& owner_end, ClientEnd&& client_end, const Timing& timing,
                const std::vector<std::string>& names, std::int64_t rounds) {
  MemoryJournal journal;
  const auto start = toy::bytes_of({});
  OwnerOptions options;
  options.rounds = rounds;
  options.min_clients = std::ssize(names);
  options.names = names;
  options.timing = timing;
  RunDescription run;
  run.run = "toy-1";
  run.split = Json::object({{"model_type", "toy"}});
  run.global = journal.put(start);
  const std::vector<std::byte> part(5000, std::byte{7});
  run.offer = {{"frozen", journal.put(part)}};
  run.max_update_bytes = most_update_bytes(trained_shapes(start));

  const float way = 1 - std::pow(0.5f, static_cast<float>(rounds));
  auto expected = kTarget;
  for (auto& number : expected) number *= way;

  Host<decltype(owner_end())> host{owner_end(), &journal, {}, trained_shapes(start), false, {}, {}};
  std::vector<std::string> errors(names.size());
  std::vector<std::vector<std::byte>> finals(names.size());
  std::vector<std::jthread> threads;
  for (std::size_t i = 0; i < names.size(); ++i) {
    threads.emplace_back([&, i] {
      MemoryJournal own;
      Host<decltype(client_end("", host.transport))> here{
          client_end(names[i], host.transport), &own, {}, {}, false, {}, {}};
      ClientOptions how;
      how.samples = 10;
      how.nonce = i;
      how.timing = timing;
      Node node(Client(how, {}), own, here);
      node.start();
      pump(
          node, here.transport, here.answers, [&] { return here.over; }, [](auto&&...) {}, 20);
      errors[i] = here.error;
      if (own.contains(node.machine().final_adapters())) {
        const auto view = own.view(node.machine().final_adapters());
        finals[i].assign(view.bytes.begin(), view.bytes.end());
      }
    });
  }
  Node node(Owner(options, run, {}), journal, host);
  node.start();
  pump(
      node, host.transport, host.answers, [&] { return host.over; }, [](auto&&...) {}, 20);
  threads.clear();
  CHECK(host.error.empty());
  const auto& state = node.machine().state();
  CHECK(state.clients.size() == names.size());
  CHECK(state.accepted.size() == names.size() * static_cast<std::size_t>(rounds));
  CHECK(state.loss == doctest::Approx(140.0 * std::pow(0.25, static_cast<double>(rounds))));
  const auto view = journal.view(state.global.sha256);
  CHECK(std::vector<std::byte>(view.bytes.begin(), view.bytes.end()) == toy::bytes_of(expected));
  for (std::size_t i = 0; i < names.size(); ++i) {
    CAPTURE(names[i]);
    CHECK(errors[i].empty());
    CHECK(finals[i] == toy::bytes_of(expected));
  }
}

/// A run of two rounds with two clients.
template <class OwnerEnd, class ClientEnd>
void run_two_rounds(OwnerEnd&& owner_end, ClientEnd&& client_end, const Timing& timing) {
  run_rounds(owner_end, client_end, timing, {"lab-a", "lab-b"}, 2);
}

}  // namespace two_rounds
