#pragma once
#include <cmath>
#include <cstdint>
#include <limits>

#include "offsite/core/error.hpp"
#include "offsite/trainer/schedule.hpp"

namespace offsite {

/// What decides which of several evaluations is the best.
enum class Metric { kLoss, kAccuracy, kAccuracyNorm };

/// How a model trains. The defaults are Hugging Face's.
struct TrainingOptions {
  double learning_rate = 5e-5;             ///< peak rate of AdamW, >= 0
  double num_epochs = 3;                   ///< passes over the data, > 0; a fraction ends within an epoch
  std::int64_t max_steps = 0;              ///< if > 0: optimiser steps, instead of num_epochs
  std::int64_t batch_size = 8;             ///< sequences a micro-batch, > 0
  std::int64_t batch_tokens = 0;           ///< if > 0: packed rows a micro-batch, instead of batch_size
  std::int64_t gradient_accumulation = 1;  ///< micro-batches a step, > 0
  Schedule schedule = Schedule::kLinear;
  std::int64_t warmup_steps = 0;  ///< >= 0
  double weight_decay = 0;        ///< decoupled, >= 0; never on biases, norms and embeddings
  double max_grad_norm = 1;       ///< L2 norm to which gradients are clipped; 0 = not at all
  double proximal_mu = 0;         ///< FedProx: adds mu / 2 * ||trained - as received||^2 to the loss, >= 0
  double adam_beta1 = 0.9;        ///< in [0, 1)
  double adam_beta2 = 0.999;      ///< in [0, 1)
  double adam_epsilon = 1e-8;     ///< > 0
  double attention_dropout = 0;   ///< in trained blocks, in [0, 1)
  double residual_dropout = 0;    ///< in trained blocks, in [0, 1)
  bool shuffle = true;            ///< false: the samples' own order in every epoch
  std::uint64_t seed = 42;
  std::int64_t logging_steps = 10;  ///< steps a logging interval, > 0
  std::int64_t eval_steps = 0;      ///< steps between evaluations; 0 = at each epoch's end
  std::int64_t save_steps = 0;      ///< steps between checkpoints; 0 = at each epoch's end
  Metric metric = Metric::kLoss;    ///< by which the best evaluation is chosen
  bool keep_best = false;           ///< end with the parameters of the best evaluation, not with the last
  std::int64_t early_stopping_patience =
      0;                            ///< evaluations without a better one before training ends; 0 = never
  std::int64_t max_bad_steps = 10;  ///< steps in a row with NaN or infinity before a NumericError, > 0
  std::int64_t round = 1;           ///< this run is that one of `rounds` equal ones under one schedule, > 0
  std::int64_t rounds = 1;          ///< >= round
  std::int64_t recompute = 0;       ///< every so many-th block is computed again, not kept; 0 = none, 1 = all
  std::int64_t rows_per_pass = 2048;  ///< a larger micro-batch adds up gradients of several passes; 0 = one
  std::int64_t prefix_cache = 0;  ///< bytes to keep rows below the first trained block in; see `PrefixCache`
};

/// \throws ArgumentError naming the first option that is out of its range.
inline void check(const TrainingOptions& o) {
  const auto at_least = [](std::int64_t value, std::int64_t least, const char* name) {
    require(value >= least, "{} is {}, but it must be at least {}", name, value, least);
  };
  const auto within = [](double value, double low, double high, const char* name) {  // [low, high)
    require(low <= value && value < high, "{} is {}, but it must be at least {} and below {}", name, value,
            low, high);
  };
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  within(o.learning_rate, 0, kInfinity, "learning_rate");
  require(o.num_epochs > 0 && o.num_epochs <= 1e6, "num_epochs is {}, but it must be above 0 and at most 1e6",
          o.num_epochs);
  at_least(o.max_steps, 0, "max_steps");
  at_least(o.batch_size, 1, "batch_size");
  at_least(o.batch_tokens, 0, "batch_tokens");
  at_least(o.gradient_accumulation, 1, "gradient_accumulation");
  at_least(o.warmup_steps, 0, "warmup_steps");
  within(o.weight_decay, 0, kInfinity, "weight_decay");
  within(o.max_grad_norm, 0, kInfinity, "max_grad_norm");
  within(o.proximal_mu, 0, kInfinity, "proximal_mu");
  within(o.adam_beta1, 0, 1, "adam_beta1");
  within(o.adam_beta2, 0, 1, "adam_beta2");
  require(o.adam_epsilon > 0 && std::isfinite(o.adam_epsilon), "adam_epsilon is {}, but it must be positive",
          o.adam_epsilon);
  within(o.attention_dropout, 0, 1, "attention_dropout");
  within(o.residual_dropout, 0, 1, "residual_dropout");
  at_least(o.logging_steps, 1, "logging_steps");
  at_least(o.eval_steps, 0, "eval_steps");
  at_least(o.save_steps, 0, "save_steps");
  at_least(o.early_stopping_patience, 0, "early_stopping_patience");
  at_least(o.max_bad_steps, 1, "max_bad_steps");
  at_least(o.round, 1, "round");
  at_least(o.rounds, o.round, "rounds");
  at_least(o.recompute, 0, "recompute");
  at_least(o.rows_per_pass, 0, "rows_per_pass");
  at_least(o.prefix_cache, 0, "prefix_cache");
}

}  // namespace offsite
