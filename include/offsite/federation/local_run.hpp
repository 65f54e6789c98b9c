#pragma once
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/federation/check_update.hpp"
#include "offsite/federation/client.hpp"
#include "offsite/federation/events.hpp"
#include "offsite/federation/node.hpp"
#include "offsite/federation/observed_journal.hpp"
#include "offsite/federation/owner.hpp"

namespace offsite::federation {

/// A client of a federation in one process.
struct LocalClient {
  std::string name;          ///< as `is_client_name` wants it
  std::int64_t samples = 0;  ///< > 0
};

/// What a score finds.
struct HeldOutScore {
  HeldOutScore(double found_loss, std::optional<double> found_accuracy = {})
      : loss(found_loss), accuracy(found_accuracy) {}

  double loss;                     ///< smaller is better
  std::optional<double> accuracy;  ///< 0..1, where there are choices
};

/// What a federation in one process does besides the protocol.
struct LocalWork {
  std::function<Aggregated(const Aggregate&)> aggregate;
  std::function<HeldOutScore(std::span<const std::byte> adapters)> score;
  /// Trains one client; `update` of the answer is filled in. The bytes are the update's.
  std::function<Trained(std::size_t client, const Round&, std::span<const std::byte> adapters,
                        std::vector<std::byte>& update)>
      train;
  std::function<void(const std::string&)> notice;  ///< for people
};

/// An owner and its clients in one process and in virtual time: the machines of a networked run, with everything that
/// they check and decide, on a network that loses nothing. Clients train one after the other, so that only one of them
/// takes memory; the result is that of a networked run with the same clients and seeds.
/// \param options  `start_clients` becomes the number of clients
/// \param journal  the owner's; a run that was killed goes on from it
/// \returns the owner's state at the end
/// \throws Error if the run ends in an error; whatever the journal or the work throws passes through.
template <Journal J>
[[nodiscard]] OwnerState run_locally(OwnerOptions options, const RunDescription& run,
                                     std::span<const LocalClient> clients, J& journal, const LocalWork& work);

namespace detail {

/// Where the machines of one process put their messages and their work.
struct LocalQueues {
  struct Delivery {
    std::string to;
    Event event;
  };
  std::deque<Delivery> deliveries;
  std::deque<std::pair<std::size_t, Round>> trainings;  // by the client's place
  std::optional<std::string> over;                      // the owner's end: its error
};

/// What an end does with actions of its machine.
template <class J>
struct LocalHost {
  LocalQueues* queues;
  J* journal;
  const LocalWork* work;
  const TrainedShapes* shapes;
  std::string self;
  std::size_t place = 0;  // of a client

  void answer(Event event) { queues->deliveries.push_back({self, std::move(event)}); }

  void operator()(Send send) {
    queues->deliveries.push_back({send.peer, Arrived{self, std::move(send.message)}});
  }
  void operator()(const CheckUpdate& request) {
    const auto facts = check_update(journal->view(request.sha256), *shapes);
    answer(Checked{request.peer, request.sha256, facts.norm, facts.error});
  }
  void operator()(const Aggregate& request) { answer(work->aggregate(request)); }
  void operator()(const Score& request) {
    Scored scored{request.sha256, 0, {}};
    try {
      const auto found = work->score(journal->view(request.sha256).bytes);
      scored.loss = found.loss;
      scored.accuracy = found.accuracy;
    } catch (const NumericError& error) {
      scored.error = error.what();
    }
    answer(std::move(scored));
  }
  void operator()(const Install& request) { answer(Installed{request.welcome.run, ""}); }
  void operator()(Train request) { queues->trainings.emplace_back(place, std::move(request.round)); }
  void operator()(const CancelTraining& request) {
    std::erase_if(queues->trainings, [&](const auto& training) {
      return training.first == place && training.second.round == request.round;
    });
  }
  void operator()(const Notice& notice) { work->notice(self + ": " + notice.text); }
  void operator()(const Finish& finish) {
    if (self == kOwner)
      queues->over = finish.error;
    else if (!finish.error.empty())
      work->notice(self + ": " + finish.error);
  }
};

}  // namespace detail

template <Journal J>
OwnerState run_locally(OwnerOptions options, const RunDescription& run, std::span<const LocalClient> clients,
                       J& journal, const LocalWork& work) {
  using ClientJournal = SharingJournal<J>;
  struct End {
    ClientJournal journal;
    detail::LocalHost<ClientJournal> host;
    Node<Client, ClientJournal, detail::LocalHost<ClientJournal>> node;
    End(J& owners, detail::LocalHost<ClientJournal> how, const ClientOptions& told)
        : journal(owners), host(std::move(how)), node(Client(told, {}), journal, host) {
      host.journal = &journal;
    }
  };
  options.start_clients = std::ssize(clients);
  const auto shapes = trained_shapes(journal.view(run.global.sha256).bytes);
  detail::LocalQueues queues;
  detail::LocalHost<J> host{&queues, &journal, &work, &shapes, std::string(kOwner)};
  const auto records = journal.records();
  Node owner(Owner(options, run, records), journal, host);
  std::vector<std::unique_ptr<End>> ends;
  std::map<std::string, std::size_t, std::less<>> places;
  for (std::size_t i = 0; i < clients.size(); ++i) {
    require(is_client_name(clients[i].name) && clients[i].name != kOwner &&
                places.emplace(clients[i].name, i).second,
            "'{}' cannot name a client, or names two", clients[i].name);
    ClientOptions told;
    told.samples = clients[i].samples;
    told.nonce = i + 1;
    told.timing = options.timing;
    ends.push_back(std::make_unique<End>(
        journal, detail::LocalHost<ClientJournal>{&queues, nullptr, &work, &shapes, clients[i].name, i},
        told));
  }
  owner.start();
  for (auto& end : ends) end->node.start();

  std::int64_t now = 0;
  while (!queues.over) {
    if (!queues.deliveries.empty()) {
      auto delivery = std::move(queues.deliveries.front());
      queues.deliveries.pop_front();
      if (delivery.to == kOwner)
        owner.handle(std::move(delivery.event));
      else
        ends[places.at(delivery.to)]->node.handle(std::move(delivery.event));
    } else if (!queues.trainings.empty()) {
      const auto [place, round] = std::move(queues.trainings.front());
      queues.trainings.pop_front();
      auto& end = *ends[place];
      std::vector<std::byte> update;
      auto trained = work.train(place, round, end.journal.view(round.global.sha256).bytes, update);
      if (trained.error.empty()) trained.update = end.journal.put(update);
      end.node.handle(std::move(trained));
    } else {
      now += 1000;
      owner.handle(Tick{now});
      for (auto& end : ends) end->node.handle(Tick{now});
    }
  }
  require<Error>(queues.over->empty(), "the run ended early: {}", *queues.over);
  return owner.machine().state();
}

}  // namespace offsite::federation
