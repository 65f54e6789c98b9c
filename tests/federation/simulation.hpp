#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <queue>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "federation/faulty_journal.hpp"
#include "federation/toy.hpp"
#include "offsite/aggregation/fed_avg.hpp"
#include "offsite/federation/aggregate_round.hpp"
#include "offsite/federation/check_update.hpp"
#include "offsite/federation/client.hpp"
#include "offsite/federation/node.hpp"
#include "offsite/federation/owner.hpp"
#include "offsite/federation/wire.hpp"

/// A federation in virtual time, in which everything goes wrong that can, as its seed says: messages are dropped,
/// doubled, reordered, delayed and damaged; processes die in any write; disks fill up; clocks jump; some clients cheat.
/// The machines are the real ones. After a while the faults end, and the run must end too.
class Simulation {
 public:
  using Numbers = toy::Numbers;

  /// What one client is up to.
  enum class Character {
    kHonest,
    kHarmful,
    kNaN,
    kHuge,
    kShape,
    kManySamples,
    kForger,
    kStranger,
    kOtherSplit,
    kDies
  };

  struct Outcome {
    std::string broken;     ///< the invariant that was violated; empty if none
    bool faults = true;     ///< the run had faults
    bool finished = false;  ///< the owner ended without an error
    std::string error;      ///< the owner's
    std::int64_t rounds = 0, kept = 0, crashes = 0, refused_updates = 0, accepted = 0, extensions = 0,
                 messages = 0;
    std::int64_t virtual_ms = 0;
    double gain = 0;          ///< of the loss on held-out data
    std::uint64_t trace = 0;  ///< a hash of all that happened
  };

  explicit Simulation(std::uint64_t seed) : random_(offsite::derive_key(seed, 0xfed)), seed_(seed) {
    set_up();
  }

  [[nodiscard]] Outcome run();

 private:
  using Owner = offsite::federation::Owner;
  using Client = offsite::federation::Client;
  using Event = offsite::federation::Event;
  using Message = offsite::federation::Message;

  struct Broken {
    std::string text;
  };
  static void expect(bool good, const std::string& text) {
    if (!good) throw Broken{text};
  }

  struct Host {
    Simulation* simulation;
    std::size_t self;
    template <class Action>
    void operator()(Action&& action) {
      simulation->act(self, action);
    }
  };
  template <class Machine>
  using NodeOf = offsite::federation::Node<Machine, FaultyJournal, Host>;

  struct Process {
    std::string name;
    Character character = Character::kHonest;
    std::unique_ptr<FaultyJournal> journal;
    std::unique_ptr<Host> host;
    std::optional<NodeOf<Owner>> owner;
    std::optional<NodeOf<Client>> client;
    std::int64_t life = 0;         // of the process, counted up at each start
    std::int64_t clock_error = 0;  // of its clock
    std::int64_t samples = 0;
    Numbers target{};
    bool ended = false;
    std::string error;
    bool restarting = false;
  };

  struct Delivery {
    std::size_t from;
    Message message;
  };
  struct Timer {};
  struct Answer {
    std::int64_t life;
    Event event;
  };
  struct TrainingDone {
    std::int64_t life;
    offsite::federation::Round round;
  };
  struct Restart {};
  struct Link {
    bool up;
  };
  struct DiskFrees {};
  using What = std::variant<Delivery, Timer, Answer, TrainingDone, Restart, Link, DiskFrees>;
  struct Item {
    std::int64_t at;
    std::uint64_t order;
    std::size_t who;
    What what;
    bool operator<(const Item& other) const {
      return std::pair(at, order) > std::pair(other.at, other.order);
    }
  };

  [[nodiscard]] bool chance(double p) { return p > 0 && random_.uniform() < p; }
  [[nodiscard]] std::int64_t between(std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(random_.below(static_cast<std::uint64_t>(high - low + 1)));
  }
  void plan(std::int64_t delay, std::size_t who, What what) {
    queue_.push({now_ + delay, order_++, who, std::move(what)});
  }
  [[nodiscard]] bool faulty() const { return now_ < heals_at_; }
  [[nodiscard]] std::size_t place(const std::string& name) const {
    for (std::size_t i = 0; i < processes_.size(); ++i)
      if (processes_[i].name == name) return i;
    throw Broken{"a message to nobody: " + name};
  }

  void set_up();
  void boot(std::size_t who);
  void crash(std::size_t who);
  void deliver(std::size_t who, Event event);
  void happen(Item& item);
  void check_end(Outcome& outcome);
  void check_owner_matches_journal();

  // What machines ask of the world.
  void act(std::size_t self, offsite::federation::Send& send);
  void act(std::size_t self, const offsite::federation::CheckUpdate& request);
  void act(std::size_t self, const offsite::federation::Aggregate& request);
  void act(std::size_t self, const offsite::federation::Score& request);
  void act(std::size_t self, const offsite::federation::Install& request);
  void act(std::size_t self, const offsite::federation::Train& request);
  void act(std::size_t, const offsite::federation::CancelTraining&) {}
  void act(std::size_t, const offsite::federation::Notice&) {}
  void act(std::size_t self, const offsite::federation::Finish& finish) {
    processes_[self].ended = true;
    processes_[self].error = finish.error;
  }
  void train(std::size_t who, const offsite::federation::Round& round);
  void forge(std::size_t who);
  void note_accepted(const std::string& client, const offsite::federation::Accepted& accepted);

  offsite::RandomStream random_;
  std::uint64_t seed_;
  std::priority_queue<Item> queue_;
  std::int64_t now_ = 0, heals_at_ = 0;
  std::uint64_t order_ = 0;
  std::vector<Process> processes_;  // the owner first
  offsite::federation::OwnerOptions options_;
  offsite::federation::RunDescription description_;
  offsite::federation::TrainedShapes shapes_;
  Numbers held_out_{};
  double drop_ = 0, twice_ = 0, damage_ = 0, crash_ = 0, cut_ = 0, jump_ = 0, fill_ = 0;
  std::int64_t slowest_ = 0;
  std::map<std::pair<std::string, std::int64_t>, std::string> acknowledged_;  // by client and round
  std::map<std::int64_t, std::vector<std::pair<std::string, std::string>>>
      used_;                       // by round: clients and hashes
  std::set<std::string> checked_;  // hashes of updates that passed
  double best_ = std::numeric_limits<double>::infinity();
  Outcome outcome_;
};

inline void Simulation::set_up() {
  using namespace offsite::federation;
  const auto count = static_cast<std::size_t>(between(1, 4));
  outcome_.faults = !chance(0.1);
  heals_at_ = outcome_.faults ? between(5'000, 60'000) : 0;
  const auto level = [&](double most) {
    return outcome_.faults && chance(0.6) ? most * random_.uniform() : 0.0;
  };
  drop_ = level(0.3), twice_ = level(0.3), damage_ = level(0.1), crash_ = level(0.08), cut_ = level(0.05);
  jump_ = level(0.05), fill_ = level(0.01);
  slowest_ = outcome_.faults && chance(0.5) ? 3'000 : 40;

  options_.rounds = between(1, 4);
  options_.min_clients = between(1, static_cast<std::int64_t>(count));
  options_.max_clients = static_cast<std::int64_t>(count) + 2;
  options_.fraction = chance(0.5) ? 1 : 0.5;
  options_.seed = seed_;
  options_.deadline_ms = 20'000;
  options_.max_extensions = 2;
  options_.patience_ms = 60'000;
  options_.silence_ms = 10'000;
  options_.grace_ms = 20'000;
  options_.max_samples = 1'000;
  options_.timing = {1'000, 3'000, 64, 256};

  processes_.resize(1 + count);
  Numbers start{};
  for (auto& x : held_out_) x = static_cast<float>(random_.uniform() * 4 - 2);
  for (auto& x : start) x = static_cast<float>(random_.uniform() * 4 - 2);
  for (std::size_t i = 0; i <= count; ++i) {
    auto& process = processes_[i];
    process.name = i == 0 ? std::string(kOwner) : "client-" + std::to_string(i);
    process.journal = std::make_unique<FaultyJournal>(offsite::derive_key(seed_, 7, i));
    process.host = std::make_unique<Host>(Host{this, i});
    process.samples = between(1, 1'000);
    process.target = held_out_;
    for (auto& x : process.target) x += static_cast<float>(random_.uniform() - 0.5);
    if (i > 0) options_.names.push_back(process.name);
    if (i > 0 && outcome_.faults && chance(0.3))
      process.character = static_cast<Character>(between(1, static_cast<std::int64_t>(Character::kDies)));
    if (process.character == Character::kStranger) options_.names.back() = "somebody-else";
  }
  auto& journal = *processes_[0].journal;
  const auto adapters = toy::bytes_of(start);
  shapes_ = trained_shapes(adapters);
  description_.run = "run-" + std::to_string(seed_);
  description_.split = offsite::Json::object({{"model_type", "toy"}, {"dtype", "float32"}});
  description_.global = journal.put(adapters);
  description_.max_update_bytes = most_update_bytes(shapes_);
  for (std::uint64_t part = 0; part < 3; ++part) {
    std::vector<std::byte> bytes(static_cast<std::size_t>(between(1, 200)));
    for (auto& b : bytes) b = static_cast<std::byte>(random_.below(256));
    description_.offer.push_back({"part." + std::to_string(part), journal.put(bytes)});
  }
  for (std::size_t i = 0; i <= count; ++i) {
    processes_[i].restarting = true;
    plan(outcome_.faults ? between(0, 8'000) : between(0, 500), i, Restart{});
    plan(between(0, 1'000), i, Timer{});
  }
}

inline void Simulation::boot(std::size_t who) {
  using namespace offsite::federation;
  auto& process = processes_[who];
  process.restarting = false;
  ++process.life;
  process.ended = false;
  process.error.clear();
  try {
    const auto records = process.journal->records();
    if (who == 0) {
      process.owner.emplace(Owner(options_, description_, records), *process.journal, *process.host);
      process.owner->start();
    } else {
      ClientOptions options;
      options.split = offsite::Json::object(
          {{"model_type", process.character == Character::kOtherSplit ? "another" : "toy"}});
      options.samples = process.samples;
      options.nonce = static_cast<std::uint64_t>(process.life);
      options.heartbeat_ms = 3'000;
      options.patience_ms = 100'000;
      options.timing = options_.timing;
      process.client.emplace(Client(options, records), *process.journal, *process.host);
      process.client->start();
    }
  } catch (const FaultyJournal::Crash&) {
    crash(who);
  } catch (const offsite::ArgumentError&) {  // the disk is full
    crash(who);
  }
}

inline void Simulation::crash(std::size_t who) {
  auto& process = processes_[who];
  ++outcome_.crashes;
  ++process.life;
  process.owner.reset();
  process.client.reset();
  process.ended = false;
  if (process.character == Character::kDies && process.life > 2) {
    process.ended = true;
    process.error = "it died";
    return;
  }
  process.restarting = true;
  plan(between(0, 10'000), who, Restart{});
}

inline void Simulation::deliver(std::size_t who, Event event) {
  auto& process = processes_[who];
  if (process.ended) return;
  try {
    if (process.owner) process.owner->handle(std::move(event));
    if (process.client) process.client->handle(std::move(event));
  } catch (const FaultyJournal::Crash&) {
    crash(who);
  } catch (const offsite::ArgumentError& error) {
    expect(process.journal->full, std::string("an error other than a full disk: ") + error.what());
    crash(who);
  } catch (const offsite::Error& error) {
    throw Broken{process.name + " ended by an exception: " + error.what()};
  }
}

inline void Simulation::happen(Item& item) {
  using namespace offsite::federation;
  auto& process = processes_[item.who];
  process.journal->crash_chance = faulty() ? crash_ : 0;
  if (!faulty()) process.journal->full = false;
  if (auto* delivery = std::get_if<Delivery>(&item.what)) {
    ++outcome_.messages;
    deliver(item.who, Arrived{processes_[delivery->from].name, std::move(delivery->message)});
  } else if (std::holds_alternative<Timer>(item.what)) {
    if (process.ended) return;  // no more ticks
    plan(1'000, item.who, Timer{});
    if (faulty()) {
      if (chance(jump_)) process.clock_error = between(-3'600'000, 3'600'000);
      if (item.who > 0 && chance(cut_)) {
        plan(0, item.who, Link{false});
        plan(between(0, 5'000), item.who, Link{true});
      }
      if (chance(fill_)) {
        process.journal->full = true;
        plan(between(1'000, 10'000), item.who, DiskFrees{});
      }
      if (process.character == Character::kForger) forge(item.who);
      if (process.character == Character::kDies && process.client && chance(0.05)) return crash(item.who);
    }
    deliver(item.who, Tick{now_ + process.clock_error});
  } else if (auto* answer = std::get_if<Answer>(&item.what)) {
    if (answer->life == process.life) deliver(item.who, std::move(answer->event));
  } else if (auto* training = std::get_if<TrainingDone>(&item.what)) {
    if (training->life == process.life && !process.ended) train(item.who, training->round);
  } else if (std::holds_alternative<Restart>(item.what)) {
    boot(item.who);
  } else if (const auto* link = std::get_if<Link>(&item.what)) {
    for (const auto side : {std::size_t{0}, item.who}) {
      const auto& peer = processes_[side == 0 ? item.who : 0].name;
      if (link->up) {
        deliver(side, Connected{peer});
      } else {
        deliver(side, Disconnected{peer});
      }
    }
  } else {
    process.journal->full = false;
  }
}

inline void Simulation::check_owner_matches_journal() {
  const auto& process = processes_[0];
  if (!process.owner) return;
  offsite::federation::OwnerState rebuilt;
  for (const auto& record : process.journal->records()) rebuilt.apply(record);
  expect(rebuilt == process.owner->machine().state(), "the owner's state is not what its journal says");
}

inline void Simulation::check_end(Outcome& outcome) {
  using namespace offsite::federation;
  const auto& owner = processes_[0];
  check_owner_matches_journal();
  const auto& state = owner.owner->machine().state();
  outcome.finished = owner.error.empty();
  outcome.error = owner.error;
  outcome.rounds = state.aggregated;
  std::map<std::int64_t, std::set<std::pair<std::string, std::string>>> recorded;
  double last = std::numeric_limits<double>::infinity(), first = 0;
  for (const auto& record : owner.journal->records()) {
    const auto& fields = record.fields;
    if (record.kind == "update")
      recorded[fields.at("round").get<std::int64_t>()].emplace(
          fields.at("client").get<std::string>(), fields.at("update").at("sha256").get<std::string>());
    if (record.kind == "extended") ++outcome.extensions;
    if (record.kind == "baseline") first = last = fields.at("loss").get<double>();
    if (record.kind == "decided" && fields.at("kept").get<bool>()) {
      ++outcome.kept;
      expect(fields.at("loss").get<double>() <= last, "a worse model was kept");
      last = fields.at("loss").get<double>();
    }
  }
  for (const auto& [key, hash] : acknowledged_)
    expect(recorded[key.second].contains({key.first, hash}), "an acknowledged update was lost");
  for (const auto& [round, used] : used_) {
    const std::set<std::pair<std::string, std::string>> unique(used.begin(), used.end());
    expect(unique.size() == used.size() && unique == recorded[round],
           "what was aggregated is not what was accepted, each once");
  }
  if (state.finished && state.error.empty())
    for (const auto& [round, updates] : recorded)
      expect(used_.contains(round), "an accepted update was never used");
  if (state.loss) {
    const auto loss = toy::loss(toy::numbers_of(owner.journal->view(state.global.sha256).bytes), held_out_);
    expect(loss == *state.loss && loss <= first, "the model is worse than at the start");
    outcome.gain = first - loss;
  }
  for (std::size_t i = 1; i < processes_.size(); ++i) {
    const auto& client = processes_[i];
    if (client.character == Character::kDies && client.error == "it died") continue;
    if (client.error.empty())
      expect(state.finished && client.journal->contains(state.global.sha256),
             "a client ended well without the final adapters");
  }
  if (!outcome.faults) {
    expect(outcome.finished, "a run without faults ended in an error: " + outcome.error);
    expect(state.aggregated == options_.rounds, "a run without faults lacks rounds");
  }
}

inline Simulation::Outcome Simulation::run() {
  constexpr std::int64_t kBound = 1'200'000;  // of virtual time after the faults' end
  try {
    const auto running = [&] {
      return std::any_of(processes_.begin(), processes_.end(), [](const Process& p) { return !p.ended; });
    };
    while (!queue_.empty() && running()) {
      auto item = std::move(const_cast<Item&>(queue_.top()));
      queue_.pop();
      now_ = item.at;
      if (now_ > heals_at_ + kBound) {
        std::string who;
        for (const auto& process : processes_)
          if (!process.ended) who += " " + process.name;
        throw Broken{"the run did not end in time:" + who};
      }
      happen(item);
    }
    outcome_.virtual_ms = now_;
    expect(!running(), "nothing is left to happen, but the run has not ended");
    check_end(outcome_);
  } catch (const Broken& broken) {
    outcome_.broken = broken.text;
  }
  return outcome_;
}

#include "federation/simulation_acts.hpp"
