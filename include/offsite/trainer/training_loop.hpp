#pragma once
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "offsite/core/dropout.hpp"
#include "offsite/core/random.hpp"
#include "offsite/data/batching.hpp"
#include "offsite/data/packed_batch.hpp"
#include "offsite/trainer/flat_parameters.hpp"
#include "offsite/trainer/run_identity.hpp"
#include "offsite/trainer/training_hooks.hpp"
#include "offsite/trainer/training_options.hpp"
#include "offsite/trainer/training_state.hpp"

namespace offsite {

/// Runs a model over the samples: epochs, steps, schedule, evaluations, checkpoints, and what to do about
/// NaN.
///
/// It knows flat parameters and a callable that adds a micro-batch's gradients, no model: so it is compiled
/// once.
class TrainingLoop {
 public:
  /// Adds the gradient of (sum of the batch's losses) / scored to the flat gradients; returns the sum of
  /// losses.
  using AddGradients =
      std::function<double(const PackedBatch& batch, std::int64_t scored, const Dropout& dropout)>;

  /// \throws ArgumentError if an option is out of range or there is no sample.
  TrainingLoop(FlatParameters& parameters, AddGradients add_gradients, std::span<const Sample> samples,
               TrainingOptions options, TrainingHooks hooks, at::ScalarType compute = at::kFloat)
      : parameters_(parameters),
        add_gradients_(std::move(add_gradients)),
        samples_(samples),
        options_(options),
        hooks_(std::move(hooks)) {
    check(options_);
    require(!samples_.empty(), "there are no samples to train on");
    const bool judges = options_.keep_best || options_.early_stopping_patience > 0;
    require(!judges || hooks_.evaluate, "keeping the best parameters and stopping early need an evaluation");
    if (hooks_.checkpoints) run_ = run_identity(options_, parameters_.layout(), samples_, compute);
    if (options_.proximal_mu > 0)
      anchor_ = parameters_.values().clone();  // before a checkpoint replaces them
    total_ = count_steps();
  }

  /// Optimiser steps of the whole run.
  [[nodiscard]] std::int64_t total_steps() const { return total_; }

  /// Trains to the end, or until the caller interrupts.
  /// \throws NumericError after `max_bad_steps` steps in a row whose loss or gradient was not finite.
  TrainingSummary run() {
    if (hooks_.resume && hooks_.checkpoints)
      if (auto state = hooks_.checkpoints.restore(run_, parameters_, best_,
                                                  [&](std::string text) { tell(WarningEvent{text}); }))
        state_ = std::move(*state);
    parameters_.clear_gradients();  // the optimiser leaves them so
    while (state_.step < total_ && !stopped_early_ && !interrupted_) run_epoch();
    close_interval();
    if (options_.keep_best && best_.defined() && !interrupted_) parameters_.assign(best_);
    return summary();
  }

 private:
  using Clock = std::chrono::steady_clock;
  using Batches = std::vector<std::vector<std::int64_t>>;

  [[nodiscard]] Batches plan(std::int64_t epoch) const {
    return plan_epoch(samples_, {options_.batch_size, options_.batch_tokens, options_.shuffle, options_.seed},
                      epoch);
  }
  [[nodiscard]] std::int64_t steps_of(const Batches& batches) const {
    const auto k = options_.gradient_accumulation;
    return (static_cast<std::int64_t>(batches.size()) + k - 1) /
           k;  // a last, smaller accumulation is a step too
  }

  /// With a token budget an epoch's number of batches depends on its order, so every epoch is counted.
  [[nodiscard]] std::int64_t count_steps() const {
    if (options_.max_steps > 0) return options_.max_steps;
    const auto whole = static_cast<std::int64_t>(options_.num_epochs);
    const double rest = options_.num_epochs - static_cast<double>(whole);
    const bool same = options_.batch_tokens == 0;
    std::int64_t total = 0, steps = 0;
    for (std::int64_t epoch = 0; epoch < whole; ++epoch) {
      if (epoch == 0 || !same) steps = steps_of(plan(epoch));
      total += steps;
    }
    if (rest > 0)
      total += static_cast<std::int64_t>(std::ceil(rest * static_cast<double>(steps_of(plan(whole)))));
    return total;
  }

  void run_epoch() {
    const Batches batches = plan(state_.epoch);
    const auto steps = steps_of(batches);
    while (state_.step_in_epoch < steps && state_.step < total_ && !stopped_early_ && !interrupted_) {
      const auto begin = state_.step_in_epoch * options_.gradient_accumulation;
      const auto n =
          std::min(options_.gradient_accumulation, static_cast<std::int64_t>(batches.size()) - begin);
      run_step(std::span(batches).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(n)),
               steps);
      const bool last = state_.step_in_epoch == steps || state_.step == total_;
      if (hooks_.evaluate && due(options_.eval_steps, last)) evaluate();
      interrupted_ = hooks_.interrupted && state_.step < total_ && hooks_.interrupted();
      const bool finished = state_.step == total_ || stopped_early_;
      if (last && state_.step_in_epoch == steps) {
        ++state_.epoch;
        state_.step_in_epoch = 0;
      }
      if (hooks_.checkpoints && (interrupted_ || (!finished && due(options_.save_steps, last)))) save();
      if (last) return;
    }
  }

  [[nodiscard]] bool due(std::int64_t every, bool last_of_epoch) const {
    return every > 0 ? state_.step % every == 0 || state_.step == total_ : last_of_epoch;
  }

  void run_step(std::span<const std::vector<std::int64_t>> batches, std::int64_t steps_in_epoch) {
    const auto start = Clock::now();
    std::int64_t scored = 0, rows = 0, samples = 0;
    for (const auto& batch : batches)
      for (const auto i : batch) {
        scored += samples_[static_cast<std::size_t>(i)].scored();
        rows += samples_[static_cast<std::size_t>(i)].rows();
        ++samples;
      }
    const Dropout dropout{options_.attention_dropout, options_.residual_dropout,
                          derive_key(options_.seed, kDropoutPurpose, state_.step)};
    double loss = 0;
    for (const auto& batch : batches)
      for (const auto pass : passes_of(samples_, batch, options_.rows_per_pass))
        loss += add_gradients_(pack(samples_, pass), scored, dropout);
    loss /= static_cast<double>(scored);

    const double rate =
        scheduled_rate(options_.schedule, options_.learning_rate, (options_.round - 1) * total_ + state_.step,
                       options_.warmup_steps, options_.rounds * total_);
    if (anchor_.defined()) parameters_.pull_towards(anchor_, options_.proximal_mu);
    FlatParameters::StepReport report;
    if (std::isfinite(loss))
      report = parameters_.step(rate, options_);
    else
      parameters_.clear_gradients();

    ++state_.step;
    ++state_.step_in_epoch;
    state_.tokens += rows;
    state_.scored_tokens += scored;
    if (state_.epoch == 0) state_.samples += samples;
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    seconds_ += seconds;
    tokens_here_ += rows;
    epochs_ = static_cast<double>(state_.epoch) +
              static_cast<double>(state_.step_in_epoch) / static_cast<double>(steps_in_epoch);
    if (!report.applied) return note_bad_step(batches, loss, report.grad_norm);

    state_.bad_steps = 0;
    state_.interval_loss += loss;
    ++state_.interval_steps;
    tell(StepEvent{state_.step, total_, epochs_, loss, rate, report.grad_norm, rows, seconds});
    if (state_.step % options_.logging_steps == 0) close_interval(rate);
  }

  void note_bad_step(std::span<const std::vector<std::int64_t>> batches, double loss, double grad_norm) {
    BadStepEvent event{state_.step, loss, grad_norm, {}};
    for (const auto& batch : batches)
      for (const auto i : batch) event.samples.push_back(samples_[static_cast<std::size_t>(i)].number);
    tell(event);
    ++state_.bad_steps;
    require<NumericError>(
        state_.bad_steps < options_.max_bad_steps,
        "{} steps in a row, up to step {}, had a loss or gradient that is not finite (last loss {}, "
        "gradient norm {}, first sample {}), and {} are allowed; none of them was applied",
        state_.bad_steps, state_.step, loss, grad_norm, event.samples.front(), options_.max_bad_steps - 1);
  }

  void close_interval(double rate = 0) {
    if (state_.interval_steps == 0 || interrupted_) return;
    const double mean = state_.interval_loss / static_cast<double>(state_.interval_steps);
    state_.losses.push_back(mean);
    state_.interval_loss = 0;
    state_.interval_steps = 0;
    tell(LogEvent{state_.step, epochs_, mean, rate});
  }

  void evaluate() {
    const EvaluationMetrics metrics = hooks_.evaluate();
    const double score = score_of(metrics);
    const bool best = std::isfinite(score) && score > state_.best_score;
    if (best) {
      state_.best_score = score;
      state_.best_step = state_.step;
      state_.evaluations_since_best = 0;
      if (options_.keep_best) best_ = parameters_.values().clone();
    } else {
      ++state_.evaluations_since_best;
    }
    tell(EvaluationEvent{state_.step, metrics, best});
    const auto patience = options_.early_stopping_patience;
    stopped_early_ = patience > 0 && state_.evaluations_since_best >= patience && state_.step < total_;
  }

  [[nodiscard]] double score_of(const EvaluationMetrics& metrics) const {
    if (options_.metric == Metric::kLoss) return -metrics.loss;
    const auto& chosen = options_.metric == Metric::kAccuracy ? metrics.accuracy : metrics.accuracy_norm;
    require(chosen.has_value(), "the metric is an accuracy, but the evaluation gave only a loss ({})",
            metrics.loss);
    return *chosen;
  }

  void save() {
    tell(CheckpointEvent{state_.step, hooks_.checkpoints.save(run_, state_, parameters_, best_)});
  }

  void tell(const TrainingEvent& event) const {
    for (const auto& observer : hooks_.observers) observer(event);
  }

  [[nodiscard]] TrainingSummary summary() const {
    TrainingSummary s;
    s.steps = state_.step;
    s.epochs = epochs_;
    s.samples = state_.samples;
    s.tokens = state_.tokens;
    s.scored_tokens = state_.scored_tokens;
    s.losses = state_.losses;
    s.loss = s.losses.empty() ? 0 : s.losses.back();
    s.best_step = options_.keep_best ? state_.best_step : -1;
    s.stopped_early = stopped_early_;
    s.interrupted = interrupted_;
    s.seconds = seconds_;
    s.tokens_per_second = seconds_ > 0 ? static_cast<double>(tokens_here_) / seconds_ : 0;
    return s;
  }

  static constexpr std::uint64_t kDropoutPurpose =
      0x64726f70;  // keeps masks apart from orders of the same seed

  FlatParameters& parameters_;
  AddGradients add_gradients_;
  std::span<const Sample> samples_;
  TrainingOptions options_;
  TrainingHooks hooks_;
  RunIdentity run_;  // what its checkpoints belong to; empty if none are written
  TrainingState state_;
  at::Tensor anchor_;  // what FedProx pulls towards: the values that training began with
  at::Tensor best_;    // values of the best evaluation, if it is to be kept
  std::int64_t total_ = 0, tokens_here_ = 0;
  double seconds_ = 0, epochs_ = 0;
  bool stopped_early_ = false, interrupted_ = false;
};

}  // namespace offsite
