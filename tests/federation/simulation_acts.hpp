#pragma once
// The end of simulation.hpp: what the simulated machines ask of the world, and what must hold whenever they do.
#include "federation/simulation.hpp"

inline void Simulation::act(std::size_t self, offsite::federation::Send& send) {
  using namespace offsite::federation;
  const auto to = place(send.peer);
  const auto kind = send.message.index();
  if (self == 0) {
    if (const auto* accepted = std::get_if<Accepted>(&send.message)) note_accepted(send.peer, *accepted);
    if (const auto* refused = std::get_if<Refused>(&send.message)) {
      expect(!refused->reason.empty(), "a refusal without a reason");
      if (refused->about == Refused::About::kUpdate && processes_[to].character <= Character::kHarmful)
        expect(!acknowledged_.contains({send.peer, refused->round}),
               "an update was refused after it was acknowledged");
      if (refused->about == Refused::About::kUpdate) ++outcome_.refused_updates;
    }
    if (const auto* goodbye = std::get_if<Goodbye>(&send.message))
      expect(processes_[0].journal->contains(goodbye->global.sha256),
             "a goodbye with adapters that are not there");
  }
  outcome_.trace = offsite::derive_key(outcome_.trace, now_, self, to, kind);
  const int copies = faulty() ? (chance(drop_) ? 0 : 1) + (chance(twice_) ? 1 : 0) : 1;
  for (int copy = 0; copy < copies; ++copy) {
    const bool damaged = faulty() && chance(damage_);
    const auto delay = between(1, faulty() ? slowest_ : 40);
    if (!damaged && random_.below(32) != 0) {
      plan(delay, to, Delivery{self, copy + 1 == copies ? std::move(send.message) : send.message});
      continue;
    }
    auto bytes = encode(send.message);
    if (damaged) bytes[random_.below(bytes.size())] ^= static_cast<std::byte>(between(1, 255));
    try {
      auto message = decode(bytes, processes_[self].name);
      expect(!damaged, "a damaged message was taken");
      plan(delay, to, Delivery{self, std::move(message)});
    } catch (const offsite::ProtocolError& error) {
      expect(damaged, std::string("a good message was refused: ") + error.what());
    }
  }
}

inline void Simulation::note_accepted(const std::string& client,
                                      const offsite::federation::Accepted& accepted) {
  const auto [entry, first] = acknowledged_.try_emplace({client, accepted.round}, accepted.sha256);
  expect(entry->second == accepted.sha256, "two different updates of one client and round were acknowledged");
  if (!first) return;
  ++outcome_.accepted;
  std::size_t recorded = 0;
  for (const auto& record : processes_[0].journal->records())
    recorded += record.kind == "update" && record.fields.at("client").get<std::string>() == client &&
                record.fields.at("round").get<std::int64_t>() == accepted.round &&
                record.fields.at("update").at("sha256").get<std::string>() == accepted.sha256;
  expect(recorded == 1, "an update was acknowledged that is not in the journal");
  expect(processes_[0].journal->contains(accepted.sha256) || used_.contains(accepted.round),
         "an acknowledged update's bytes are not on the disk");
}

inline void Simulation::act(std::size_t self, const offsite::federation::CheckUpdate& request) {
  const auto view = processes_[self].journal->view(request.sha256);
  const auto facts = offsite::federation::check_update(view.bytes, shapes_);
  if (facts.error.empty()) checked_.insert(request.sha256);
  plan(between(1, 500), self,
       Answer{processes_[self].life,
              offsite::federation::Checked{request.peer, request.sha256, facts.norm, facts.error}});
}

inline void Simulation::act(std::size_t self, const offsite::federation::Aggregate& request) {
  auto& process = processes_[self];
  std::vector<std::pair<std::string, std::string>> used;
  for (const auto& update : request.updates) {
    used.emplace_back(update.client, update.sha256);
    expect(update.weight >= 1 && update.weight <= 1'000, "a weight beyond max_samples was used");
    expect(checked_.contains(update.sha256), "a tensor that nobody checked was used");
    const auto view = process.journal->view(update.sha256);
    expect(offsite::sha256_hex(view.bytes) == update.sha256,
           "the bytes used are not those that were accepted");
    expect(offsite::federation::check_update(view.bytes, shapes_).error.empty(), "a bad tensor was used");
  }
  for (std::size_t i = 1; i < used.size(); ++i)
    expect(used[i - 1].first < used[i].first, "a client counts twice");
  const auto [entry, first] = used_.try_emplace(request.round, used);
  expect(entry->second == used, "a round was aggregated of other updates after a restart");
  const auto answer = offsite::federation::aggregate_round(offsite::FedAvg{}, request, *process.journal);
  plan(between(1, 500), self, Answer{process.life, answer});
}

inline void Simulation::act(std::size_t self, const offsite::federation::Score& request) {
  const auto view = processes_[self].journal->view(request.sha256);
  offsite::federation::Scored answer{request.sha256, toy::loss(toy::numbers_of(view.bytes), held_out_), ""};
  if (faulty() && chance(0.02)) answer.loss = std::nan("");
  plan(between(1, 500), self, Answer{processes_[self].life, answer});
}

inline void Simulation::act(std::size_t self, const offsite::federation::Install& request) {
  for (const auto& part : request.welcome.offer) {
    const auto view = processes_[self].journal->view(part.blob.sha256);
    expect(offsite::sha256_hex(view.bytes) == part.blob.sha256 && view.bytes.size() == part.blob.bytes,
           "a part of the offer is not what was announced");
  }
  plan(between(1, 500), self,
       Answer{processes_[self].life, offsite::federation::Installed{request.welcome.run, ""}});
}

inline void Simulation::act(std::size_t self, const offsite::federation::Train& request) {
  const auto longest = faulty() ? 15'000 : 3'000;  // some miss the deadline
  plan(between(1, longest), self, TrainingDone{processes_[self].life, request.round});
}

inline void Simulation::train(std::size_t who, const offsite::federation::Round& round) {
  using namespace offsite::federation;
  auto& process = processes_[who];
  if (!process.client || process.client->machine().state().round != round.round ||
      !process.journal->contains(round.global.sha256))
    return;  // the training was cancelled
  const auto global = toy::numbers_of(process.journal->view(round.global.sha256).bytes);
  Numbers delta{};
  const auto cheats = process.character;
  for (std::size_t i = 0; i < delta.size(); ++i)
    delta[i] = 0.5f * (process.target[i] - global[i]) + 0.01f * static_cast<float>(random_.uniform());
  if (cheats == Character::kHarmful)
    for (auto& x : delta) x = -x;
  if (cheats == Character::kHuge)
    for (auto& x : delta) x *= 1e6f;
  if (cheats == Character::kNaN) delta[random_.below(delta.size())] = std::nanf("");
  auto bytes = toy::bytes_of(delta);
  if (cheats == Character::kShape) bytes[random_.below(bytes.size())] ^= std::byte{1};
  Trained trained{round.round, {},  cheats == Character::kManySamples ? 1'000'000'000 : process.samples,
                  10,          0.5, ""};
  try {
    trained.update = process.journal->put(bytes);
  } catch (const FaultyJournal::Crash&) {
    return crash(who);
  } catch (const offsite::ArgumentError&) {
    return crash(who);
  }
  deliver(who, std::move(trained));
}

/// Messages a liar might send: of any round, with hashes it heard of, chunks nobody asked for.
inline void Simulation::forge(std::size_t who) {
  using namespace offsite::federation;
  std::string hash = description_.global.sha256;
  if (!acknowledged_.empty() && chance(0.5)) hash = acknowledged_.begin()->second;
  const auto round = between(1, options_.rounds + 1);
  Message message;
  switch (random_.below(5)) {
    case 0:
      message =
          UpdateReady{description_.run, round, {hash, static_cast<std::uint64_t>(between(1, 400))}, 5, 1, 0};
      break;
    case 1:
      message = Chunk{hash, static_cast<std::uint64_t>(between(0, 400)), std::vector<std::byte>(16)};
      break;
    case 2:
      message = Want{hash, static_cast<std::uint64_t>(between(0, 1'000)), kMostChunk};
      break;
    case 3:
      message = Status{description_.run, Doing::kReady, round};
      break;
    default:
      message = Goodbye{description_.run, {hash, 8}, 1, "forged"};
      break;
  }
  plan(between(1, 40), 0, Delivery{who, std::move(message)});
}
