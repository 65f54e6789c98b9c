#pragma once
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace offsite {

/// Where a training run stands, beside the numbers in its `FlatParameters`: all that a resumed run needs to
/// go on as if it had not been interrupted. Data order and dropout masks follow from seed and step, so they
/// are not in it.
struct TrainingState {
  std::int64_t step = 0;           ///< optimiser steps done, those that were not applied included
  std::int64_t epoch = 0;          ///< passes over the data that are complete
  std::int64_t step_in_epoch = 0;  ///< steps done of the current one
  std::int64_t bad_steps = 0;      ///< in a row, up to now
  std::int64_t tokens = 0;         ///< packed rows so far
  std::int64_t scored_tokens = 0;
  std::int64_t samples = 0;  ///< different samples seen: all of them after one epoch

  std::vector<double> losses;  ///< mean loss of each complete logging interval
  double interval_loss = 0;    ///< sum over the steps of the current one
  std::int64_t interval_steps = 0;

  std::int64_t best_step = -1;                                   ///< of the best evaluation so far; -1 = none
  double best_score = -std::numeric_limits<double>::infinity();  ///< higher is better
  std::int64_t evaluations_since_best = 0;
};

/// What a finished run reports.
struct TrainingSummary {
  std::int64_t steps = 0;
  double epochs = 0;
  std::int64_t samples = 0;  ///< different samples trained on
  std::int64_t tokens = 0;   ///< packed rows
  std::int64_t scored_tokens = 0;
  double loss = 0;               ///< mean of the last logging interval
  std::vector<double> losses;    ///< of each logging interval
  std::int64_t best_step = -1;   ///< the step whose parameters were kept, if the best were asked for
  bool stopped_early = false;    ///< by the patience
  bool interrupted = false;      ///< by the caller: the run is not complete and can be resumed
  double seconds = 0;            ///< spent on steps in this process
  double tokens_per_second = 0;  ///< rows of this process over those seconds
};

}  // namespace offsite
