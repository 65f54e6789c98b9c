#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "offsite/blocks/block_access.hpp"
#include "offsite/core/error.hpp"
#include "offsite/data/sample.hpp"
#include "offsite/eval/evaluation_options.hpp"
#include "offsite/eval/log_probabilities.hpp"
#include "offsite/eval/row_packer.hpp"
#include "offsite/eval/scores.hpp"

namespace offsite {

/// What samples without choices were given by a model.
struct SampleScores {
  Scores scores;                        ///< without accuracies
  std::vector<double> log_likelihoods;  ///< of each sample's scored tokens together, in the samples' order
};

namespace detail {

/// \throws ArgumentError for a sample that cannot be scored, or is longer than a known context.
inline void check_sample(const Sample& sample, std::int64_t context) {
  require(
      0 < sample.scored_from && sample.scored() > 0,
      "row {}: a sample of {} tokens is scored from token {}, but that must lie between 1 and the last token",
      sample.number + 1, sample.tokens.size(), sample.scored_from);
  require(
      context == 0 || sample.rows() <= context,
      "row {}: a sample has {} packed rows, but the model's context holds {}: encode it with max_length {}",
      sample.number + 1, sample.rows(), context, context);
}

/// \throws NumericError if the log-probability of a token of row `number` is not a number.
inline void check_number(double value, std::int64_t number) {
  require<NumericError>(!std::isnan(value), "row {}: the model gives NaN as the log-probability of a token",
                        number + 1);
}

/// Runs batch after batch. `add(packer, item)` packs an item, `take(target, value)` is given each result.
template <class Access, class Model, class Add, class Take>
void score_batches(Model& model, std::span<const std::int64_t> item_rows, const EvaluationOptions& options,
                   const Add& add, const Take& take) {
  const auto total = static_cast<std::int64_t>(item_rows.size());
  std::int64_t done = 0;
  for (const auto& batch : plan_rows(item_rows, options.batch_tokens)) {
    RowPacker packer;
    for (const auto item : batch) add(packer, item);
    const auto packed = std::move(packer).finish();
    const auto values = log_probabilities<Access>(model, packed);
    for (std::size_t i = 0; i < values.size(); ++i) take(packed.targets[i], values[i]);
    done += static_cast<std::int64_t>(batch.size());
    if (options.progress) options.progress(done, total);
  }
}

/// The log-probability of every scored token of every sample, in their order.
template <class Access, class Model>
std::vector<std::vector<double>> score_tokens_of(Model& model, std::span<const Sample> samples,
                                                 const EvaluationOptions& options) {
  std::vector<std::int64_t> rows;
  std::vector<std::vector<double>> result(samples.size());
  rows.reserve(samples.size());
  for (std::size_t i = 0; i < samples.size(); ++i) {
    check_sample(samples[i], options.context);
    rows.push_back(samples[i].rows());
    result[i].reserve(static_cast<std::size_t>(samples[i].scored()));
  }
  const auto add = [&](RowPacker& packer, std::int64_t item) {
    const auto& sample = samples[static_cast<std::size_t>(item)];
    const auto begin = packer.add(std::span(sample.tokens).first(static_cast<std::size_t>(sample.rows())));
    for (auto t = sample.scored_from; t <= sample.rows(); ++t)
      packer.score(begin + t - 1, sample.tokens[static_cast<std::size_t>(t)], item);
  };
  const auto take = [&](const ScoredRows::Target& target, double value) {
    check_number(value, samples[static_cast<std::size_t>(target.owner)].number);
    result[static_cast<std::size_t>(target.owner)].push_back(value);  // targets ascend by row
  };
  score_batches<Access>(model, rows, options, add, take);
  return result;
}

}  // namespace detail

/// The loss of a model on samples: the mean over all their scored tokens, whatever the packing.
/// \throws ArgumentError if there is no sample, or one that cannot be scored or is longer than the context;
/// NumericError for NaN.
template <class Model, class Access = BlockAccess<Model>>
[[nodiscard]] SampleScores score_samples(Model& model, std::span<const Sample> samples,
                                         const EvaluationOptions& options = {}) {
  options.check();
  require(!samples.empty(), "there is no sample to score");
  SampleScores result;
  double sum = 0;
  for (const auto& values : detail::score_tokens_of<Access>(model, samples, options)) {
    result.log_likelihoods.push_back(std::accumulate(values.begin(), values.end(), 0.0));
    result.scores.scored_tokens += static_cast<std::int64_t>(values.size());
    sum += result.log_likelihoods.back();
  }
  result.scores.examples = static_cast<std::int64_t>(samples.size());
  result.scores.loss = -sum / static_cast<double>(result.scores.scored_tokens);
  return result;
}

}  // namespace offsite
