#pragma once
#include <functional>
#include <vector>

#include "offsite/trainer/checkpoint_store.hpp"
#include "offsite/trainer/events.hpp"
#include "offsite/trainer/prefix_cache.hpp"

namespace offsite {

/// What a caller may attach to a training run; all of it is optional.
struct TrainingHooks {
  std::vector<Observer> observers{};  ///< told of everything that happens; see `observe`
  std::function<EvaluationMetrics()>
      evaluate{};                       ///< scores the model as it is, on data that is not trained on
  CheckpointStore checkpoints{};        ///< as of `checkpoints_in(folder)`; empty = none are written
  bool resume = false;                  ///< go on from the newest checkpoint there, if there is one
  PrefixStore prefix_store{};           ///< where rows below the first trained block lie; empty = in memory
  std::function<bool()> interrupted{};  ///< asked after each step; true = write a checkpoint and return
};

}  // namespace offsite
