#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "offsite/trainer/flat_parameters.hpp"
#include "offsite/trainer/training_state.hpp"

namespace offsite {

/// Everything that fixes a run's course, as names and texts, so that a resumed run can say what differs.
using RunIdentity = std::vector<std::pair<std::string, std::string>>;

/// Where a training run keeps its checkpoints. Two callables, so that training knows nothing of files:
/// `checkpoints_in(folder)` makes the one that writes folders.
struct CheckpointStore {
  /// Keeps a run as it is now, whole or not at all, and returns the checkpoint's name for people.
  /// `best`: values of the best evaluation; undefined if there are none. \throws ArgumentError if it cannot.
  std::function<std::string(const RunIdentity& run, const TrainingState& state,
                            const FlatParameters& parameters, const at::Tensor& best)>
      save{};

  /// Puts the newest checkpoint into `parameters` and `best`; nothing if there is none. `warn` is called with a
  /// sentence if it was made on another machine. \throws ArgumentError if it belongs to another run,
  /// ProtocolError if it is broken; then nothing has changed.
  std::function<std::optional<TrainingState>(const RunIdentity& run, FlatParameters& parameters,
                                             at::Tensor& best, const std::function<void(std::string)>& warn)>
      restore{};

  /// Whether checkpoints are kept at all.
  explicit operator bool() const { return static_cast<bool>(save); }
};

}  // namespace offsite
