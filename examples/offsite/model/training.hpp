#pragma once
#include <charconv>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>

#include "offsite/model/common.hpp"
#include "offsite/report/json_lines.hpp"
#include "offsite/report/progress.hpp"
#include "offsite/trainer/training_hooks.hpp"
#include "offsite/trainer/training_options.hpp"
#include "offsite/trainer/training_state.hpp"

// How the program trains: options, and what one sees of it.

namespace program {

/// The library's options, completed by what the command line says in words.
template <class Config>
TrainingOptions training_options(const CommonArguments& common, const TrainArguments& training,
                                 const Config& config) {
  TrainingOptions options = training.options;
  options.seed = common.seed;
  options.schedule = schedule_of(training.schedule);
  options.shuffle = !training.no_shuffle;
  options.keep_best = training.keep_best;
  if (!training.prefix_folder.empty() && options.prefix_cache == 0)
    options.prefix_cache = std::numeric_limits<std::int64_t>::max();
  require(training.metric == "loss" || training.metric == "accuracy" || training.metric == "accuracy_norm",
          "--metric is {}, but there are loss, accuracy and accuracy_norm", training.metric);
  options.metric = training.metric == "loss"       ? Metric::kLoss
                   : training.metric == "accuracy" ? Metric::kAccuracy
                                                   : Metric::kAccuracyNorm;
  if (training.dropout == "config") {
    options.attention_dropout = config.attention_dropout();
    options.residual_dropout = config.residual_dropout();
  } else {
    const auto* end = training.dropout.data() + training.dropout.size();
    double rate = 0;
    const auto [stop, error] = std::from_chars(training.dropout.data(), end, rate);
    require(error == std::errc{} && stop == end && 0 <= rate && rate < 1,
            "--dropout is {}, but it must be a rate of at least 0 and below 1, or config", training.dropout);
    options.attention_dropout = options.residual_dropout = rate;
  }
  require(!(options.keep_best || options.early_stopping_patience > 0) || !training.eval_data.empty(),
          "--keep-best and --early-stopping-patience need --eval-data to judge by");
  check(options);
  return options;
}

inline EvaluationMetrics metrics_of(const Scores& scores) {
  return {scores.loss, scores.accuracy, scores.accuracy_norm};
}

/// Shows a run: a bar with loss, rate and time left, a line for each evaluation, and JSON lines if asked for.
class TrainingReport {
 public:
  TrainingReport(const Session& session, std::string label, const Path& log)
      : session_(session), label_(std::move(label)) {
    if (!log.empty()) writing([&] { log_ = std::make_shared<JsonLines>(log); });
  }

  [[nodiscard]] Observer observer() {
    return [this](const TrainingEvent& event) { std::visit([this](const auto& e) { on(e); }, event); };
  }
  void finish() {
    if (progress_) progress_->finish();
  }

 private:
  void on(const StepEvent& e) {
    if (!progress_)
      progress_ = std::make_unique<Progress>(ProgressOptions{.label = label_,
                                                             .total = e.total,
                                                             .begin = e.step - 1,
                                                             .seconds = e.seconds,
                                                             .quiet = session_.common().quiet});
    tokens_ += e.tokens;
    progress_->update({.done = e.step, .loss = e.loss, .tokens = tokens_});
  }
  void on(const LogEvent& e) {
    write(Json::object(
        {{"step", e.step}, {"epoch", e.epoch}, {"loss", e.loss}, {"learning_rate", e.learning_rate}}));
  }
  void on(const EvaluationEvent& e) {
    auto line = Json::object({{"step", e.step}, {"eval_loss", e.metrics.loss}, {"best", e.best}});
    std::string text = fmt::format("step {}: held-out loss {:.4f}", e.step, e.metrics.loss);
    if (e.metrics.accuracy) {
      line["eval_accuracy"] = *e.metrics.accuracy;
      line["eval_accuracy_norm"] = e.metrics.accuracy_norm.value_or(0);
      text += fmt::format(", accuracy {:.1f} %", 100 * *e.metrics.accuracy);
    }
    note(text + (e.best ? " (best so far)" : ""));
    write(line);
  }
  void on(const CheckpointEvent& e) { write(Json::object({{"step", e.step}, {"checkpoint", e.path}})); }
  void on(const BadStepEvent& e) {
    note(fmt::format("step {} was not applied: loss {}, gradient norm {}, {} samples from number {} on",
                     e.step, e.loss, e.grad_norm, e.samples.size(),
                     e.samples.empty() ? -1 : e.samples.front()));
    write(Json::object({{"step", e.step}, {"bad_step", true}, {"samples", e.samples}}));
  }
  void on(const WarningEvent& e) { note("warning: " + e.text); }

  void note(const std::string& text) {
    if (progress_)
      progress_->note(text);
    else
      session_.say(text);
  }
  void write(const Json& line) {
    if (log_) writing([&] { log_->write(line); });
  }

  const Session& session_;
  std::string label_;
  std::unique_ptr<Progress> progress_;
  std::shared_ptr<JsonLines> log_;
  std::int64_t tokens_ = 0;
};

inline void put_summary(Json& json, const TrainingSummary& s, std::int64_t trainable) {
  json["steps"] = s.steps;
  json["epochs"] = s.epochs;
  json["samples"] = s.samples;
  json["tokens"] = s.tokens;
  json["scored_tokens"] = s.scored_tokens;
  json["loss"] = s.loss;
  json["losses"] = s.losses;
  json["tokens_per_second"] = s.tokens_per_second;
  json["trainable_parameters"] = trainable;
  json["stopped_early"] = s.stopped_early;
  if (s.best_step >= 0) json["best_step"] = s.best_step;
}

}  // namespace program
