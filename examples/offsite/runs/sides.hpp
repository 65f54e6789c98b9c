#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "offsite/federation/blob.hpp"
#include "offsite/federation/journal.hpp"
#include "offsite/federation/local_run.hpp"
#include "offsite/federation/messages.hpp"
#include "offsite/rounds/round_training.hpp"
#include "offsite/runs/arguments.hpp"
#include "offsite/trainer/training_state.hpp"

// What a federation asks of a model, without its type: made by the translation unit that knows it.

namespace program {

using Bytes = std::span<const std::byte>;
using PutBlob = std::function<offsite::federation::Blob(Bytes)>;
using ViewBlob = std::function<offsite::federation::BlobView(std::string_view sha256)>;

/// The owner's model.
struct OwnerSide {
  offsite::Json split;           ///< the contents of `split.json`
  std::vector<std::byte> start;  ///< the adapters at the start, a safetensors file
  offsite::RoundTraining training;
  std::function<std::vector<offsite::federation::OfferedBlob>(const PutBlob&)> put_offer;
  std::function<offsite::federation::HeldOutScore(Bytes adapters)> score;
  std::function<void(Bytes adapters, const OutArguments&)> save;  ///< plugs in, writes the model folder
};

/// One client's training of one round.
struct TrainedUpdate {
  std::vector<std::byte> update;  ///< empty if it was interrupted
  offsite::TrainingSummary summary;
};

/// Where a client keeps its checkpoints of the round it trains.
inline Path checkpoints_of(const Path& journal) { return journal / "checkpoints"; }

/// A client's sub-model and data.
struct ClientSide {
  std::int64_t samples = 0;
  std::function<TrainedUpdate(const offsite::federation::Round&, Bytes adapters,
                              const std::function<bool()>& interrupted)>
      train;
};

/// An owner and clients that share the frozen tensors.
struct SimulatedSides {
  struct Data {
    std::string name;
    std::int64_t samples = 0;
  };
  OwnerSide owner;
  std::vector<Data> clients;
  /// \param optimizer  folder for what AdamW keeps of that client
  std::function<TrainedUpdate(std::size_t client, const offsite::federation::Round&, Bytes adapters,
                              const Path& optimizer)>
      train;
};

}  // namespace program
