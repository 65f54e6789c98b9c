#pragma once
#include <algorithm>
#include <charconv>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "offsite/data/client_shares.hpp"
#include "offsite/model/common.hpp"
#include "offsite/model/evaluate.hpp"
#include "offsite/model/split.hpp"
#include "offsite/model/training.hpp"
#include "offsite/rounds/offer_blobs.hpp"
#include "offsite/rounds/round_checkpoints.hpp"
#include "offsite/rounds/train_round.hpp"
#include "offsite/runs/sides.hpp"
#include "offsite/trainer/owner.hpp"

namespace program {

/// The held-out data of a federation's owner: the rows that `--eval-data` and `--eval-limit` name.
inline DataArguments held_out_arguments(const DataArguments& data, const TrainArguments& training) {
  auto held_out = data;
  held_out.data = training.eval_data;
  held_out.skip = 0;
  held_out.limit = training.eval_limit;
  return held_out;
}

template <class Model>
using FederationOwner = Owner<Model, AnyDrop, FedAvg, PlacedAdapters>;

/// The owner's side of a federation: what `Command` says of model, split, training and held-out data.
template <class Model, class Command>
OwnerSide owner_side(const Command& command, Session& session,
                     const std::shared_ptr<FederationOwner<Model>>& owner) {
  using Access = BlockAccess<Model>;
  OwnerSide side;
  const auto& config = owner->model().config;
  side.training.options = training_options(session.common(), command.training, config);
  side.training.rounds = command.rounds.options.rounds;
  side.training.keep_optimizer = command.rounds.keep_optimizer;
  const auto& layout = owner->layout();
  side.start = trained_file(
      layout, std::span(owner->global().data(), static_cast<std::size_t>(owner->global().size())));

  const auto tokenizer = tokenizer_for(command.model, config.vocabulary_size());
  const auto held_out = std::make_shared<const Evaluation>(load_evaluation(
      session, held_out_arguments(command.data, command.training), tokenizer, config.context_length()));
  const auto type = compute_type(session, Precision::kScoring, own_type(owner->model()));
  const auto plugged = [owner](Bytes adapters) {
    auto values = read_trained_file(adapters, owner->layout(), "the adapters");
    return owner->plug_in_values(at::from_blob(values.data(), {values.size()}, at::kFloat)).model;
  };
  side.score = [plugged, held_out, type, &session](Bytes adapters) {
    Model model = cast_model<Access>(plugged(adapters), type);
    const auto scores = score(session, model, *held_out).scores;
    return federation::HeldOutScore(scores.loss, scores.accuracy);
  };
  side.save = [plugged, source = command.model, &session](Bytes adapters, const OutArguments& out) {
    Model model = plugged(adapters);
    SaveModelOptions options;
    if (out.force) options.existing = StagedFolder::kReplace;
    writing([&] { save_model(model, source, out.out, options); });
    session.say("wrote " + out.out.string());
  };
  return side;
}

template <class Model, class Command>
std::shared_ptr<FederationOwner<Model>> federation_owner(const Command& command, Session& session) {
  Model model = load_model<Model>(command.model);
  const auto cut = cut_of(command.split, model.config.num_blocks());
  const auto adapters = adapters_of(command.split.peft, session.common().seed);
  for (const auto* policy :
       {&adapters.bottom, &adapters.top, adapters.emulator ? &*adapters.emulator : nullptr})
    require(policy == nullptr || !std::holds_alternative<Bottleneck>(policy->policy),
            "--peft is {}, but a run ends in a whole model, into which bottlenecks cannot be merged",
            command.split.peft.policy);
  return std::make_shared<FederationOwner<Model>>(std::move(model), cut.options, cut.drop, FedAvg{},
                                                  adapters);
}

/// The owner of a federation over a network: its offer travels.
template <class Model>
OwnerSide serving_side(const ServeCommand& command, Session& session) {
  const auto owner = federation_owner<Model>(command, session);
  auto side = owner_side<Model>(command, session, owner);
  OfferOptions options;
  if (!command.share.empty())
    options.shared =
        command.share == std::vector<std::string>{"none"} ? std::vector<std::string>{} : command.share;
  options.policy = {command.max_verbatim, std::nullopt};
  auto prepared = std::make_shared<PreparedOffer<Model>>(
      prepare_offer(owner->model(), owner->offer(), command.model, options));
  for (const auto& line : prepared->disclosure.lines()) session.say(line);
  side.split = prepared->split.to_json();
  side.put_offer = [prepared, source = command.model](const PutBlob& put) {
    return put_offer(*prepared, source, put);
  };
  return side;
}

/// A client over a network, once the offer is here.
template <class Model>
ClientSide client_side(const JoinCommand& command, Session& session, const federation::Welcome& welcome,
                       const ViewBlob& view) {
  auto received = read_offer_blobs<Model>(welcome.split, welcome.offer, view, command.journal / "tokenizer",
                                          shared_folder(command.shared_from));
  const auto config = received.offer.model.config;
  const auto tokenizer = tokenizer_for(received.tokenizer, config.vocabulary_size());
  const auto samples = std::make_shared<const std::vector<Sample>>(
      load_training(session, command.data, tokenizer, config.context_length()));
  const auto type = compute_type(session, Precision::kTraining, own_type(received.offer.model));
  const auto client =
      std::make_shared<Client<Model, PlacedAdapters>>(std::move(received.offer), type, received.adapters);
  session.say(fmt::format("{} samples, {} of the offer's parameters train", samples->size(),
                          client->parameters().layout().size()));
  ClientSide side;
  side.samples = std::ssize(*samples);
  side.train = [client, samples, folder = command.journal, split = welcome.split,
                save_steps = command.save_steps, &session](const federation::Round& round, Bytes adapters,
                                                           const std::function<bool()>& interrupted) {
    TrainingReport report(session, fmt::format("round {}", round.round), {});
    auto training = RoundTraining::from_json(round.training, "the owner's training options");
    training.options.save_steps = save_steps;
    const auto say = [&session](const std::string& sentence) { session.say(sentence); };
    auto result = train_round(*client, round.round, adapters, training, *samples, folder / "optimizer",
                              {.observers = {report.observer()},
                               .checkpoints = round_checkpoints_in(checkpoints_of(folder), round, split, say),
                               .resume = true,
                               .interrupted = interrupted});
    report.finish();
    return TrainedUpdate{std::move(result.update), std::move(result.summary)};
  };
  return side;
}

/// One client of a simulation: its name and its samples.
struct SimulatedData {
  std::string name;
  std::vector<Sample> samples;
};

/// A name that sorts as the clients are numbered: their names' order is that of their updates.
inline std::string simulated_name(std::size_t number, std::size_t count) {
  return fmt::format("client-{:0{}}", number, std::to_string(count).size());
}

/// Splits the data among the clients, as `--split-data` says.
inline std::vector<SimulatedData> simulated_data(const SimulateCommand& command, const Session& session,
                                                 const AnyTokenizer& tokenizer, std::int64_t context) {
  std::vector<SimulatedData> clients;
  const auto& how = command.split_data;
  if (how == "by-file") {
    std::error_code error;
    std::set<Path> files;
    for (const auto& file : std::filesystem::directory_iterator(command.data.data, error))
      if (file.is_regular_file()) files.insert(file.path());
    require(!files.empty(), "--split-data is by-file, but --data, {}, is no folder that holds files",
            command.data.data.string());
    require(command.clients == 0 || command.clients == std::ssize(files),
            "--clients is {}, but {} holds {} files", command.clients, command.data.data.string(),
            files.size());
    for (const auto& file : files) {
      auto data = command.data;
      data.data = file;
      clients.push_back({file.stem().string(), load_training(session, data, tokenizer, context)});
    }
    return clients;
  }
  require(command.clients > 0, "--clients is {}, but it must be positive", command.clients);
  const auto samples = load_training(session, command.data, tokenizer, context);
  ClientShares shares;
  if (how == "iid") {
    shares = even_shares(std::ssize(samples), command.clients, session.common().seed);
  } else {
    double alpha = 0;
    const std::string kind = "dirichlet:";
    const char* const end = how.data() + how.size();
    const bool known =
        how.starts_with(kind) && std::from_chars(how.data() + kind.size(), end, alpha).ptr == end;
    require(known && how.size() > kind.size(),
            "--split-data is {}, but it must be iid, by-file, or dirichlet: and a number, as dirichlet:0.1",
            how);
    std::vector<std::int64_t> labels(samples.size(), 0);
    const auto task = task_of(command.data);
    if (scoring_of(task) == Scoring::kMultipleChoice) {
      const auto examples = read_examples(task, command.data.data, command.data.range());
      for (std::size_t i = 0; i < labels.size(); ++i) labels[i] = examples.at(i).answer;
    }
    shares = dirichlet_shares(labels, command.clients, alpha, session.common().seed);
  }
  for (std::size_t i = 0; i < shares.size(); ++i) {
    clients.push_back({simulated_name(i + 1, shares.size()), {}});
    for (const auto k : shares[i]) clients.back().samples.push_back(samples[static_cast<std::size_t>(k)]);
  }
  return clients;
}

/// Owner and clients in one process. One sub-model serves all clients, one after the other: their frozen tensors are the
/// same ones, and their trained tensors take memory while they train.
template <class Model>
SimulatedSides simulated_sides(const SimulateCommand& command, Session& session) {
  const auto owner = federation_owner<Model>(command, session);
  SimulatedSides sides;
  sides.owner = owner_side<Model>(command, session, owner);
  const auto& config = owner->model().config;
  const auto tokenizer = tokenizer_for(command.model, config.vocabulary_size());
  const auto data = std::make_shared<const std::vector<SimulatedData>>(
      simulated_data(command, session, tokenizer, config.context_length()));
  for (const auto& client : *data) sides.clients.push_back({client.name, std::ssize(client.samples)});
  sides.owner.split = Json::object({{"model_type", std::string(Model::kModelType)}});
  const auto type = compute_type(session, Precision::kTraining, own_type(owner->model()));
  const auto client = std::make_shared<Client<Model, PlacedAdapters>>(
      owner->offer(), type, adapters_of(command.split.peft, session.common().seed));
  sides.train = [client, data, training = sides.owner.training](std::size_t which,
                                                                const federation::Round& round,
                                                                Bytes adapters, const Path& optimizer) {
    auto result = train_round(*client, round.round, adapters, training, data->at(which).samples, optimizer,
                              {.interrupted = interrupted});
    return TrainedUpdate{std::move(result.update), std::move(result.summary)};
  };
  return sides;
}

}  // namespace program
