#pragma once
#include <Eigen/Core>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <utility>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/data/sample.hpp"
#include "offsite/rounds/optimizer_files.hpp"
#include "offsite/rounds/round_training.hpp"
#include "offsite/rounds/trained_file.hpp"
#include "offsite/trainer/client.hpp"

namespace offsite {

/// What a client made of one round.
struct RoundResult {
  std::vector<std::byte> update;  ///< a safetensors file: trained minus received; empty if interrupted
  TrainingSummary summary;
};

/// A round as a client trains it: from the owner's adapters to the update. A client that is made anew gives the same.
/// \param adapters   as the owner sent them, a safetensors file
/// \param optimizer  folder for AdamW's state between rounds; nothing is written unless it is to be kept
/// \throws ProtocolError if the adapters do not fit the client; NumericError if training or update is not finite;
///         ArgumentError as `TrainingLoop` does.
template <class Model, class Adapters, class Access>
[[nodiscard]] RoundResult train_round(Client<Model, Adapters, Access>& client, std::int64_t round,
                                      std::span<const std::byte> adapters, const RoundTraining& training,
                                      std::span<const Sample> samples, const std::filesystem::path& optimizer,
                                      TrainingHooks hooks = {}) {
  const auto& layout = client.parameters().layout();
  const auto options = training.of_round(round);
  client.receive(read_trained_file(adapters, layout, "the owner's adapters"));
  if (training.keep_optimizer) OptimizerFiles(optimizer).restore(round, client.parameters());
  RoundResult result{{}, client.train(samples, options, std::move(hooks))};
  if (result.summary.interrupted) return result;
  const auto update = client.update(1);
  require<NumericError>(update.delta.allFinite(), "the update of round {} holds a number that is not finite",
                        round);
  if (training.keep_optimizer) OptimizerFiles(optimizer).save(round, client.parameters());
  result.update =
      trained_file(layout, std::span(update.delta.data(), static_cast<std::size_t>(update.delta.size())));
  return result;
}

}  // namespace offsite
