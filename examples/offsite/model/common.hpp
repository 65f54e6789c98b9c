#pragma once
#include <ATen/core/Tensor.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "offsite/arguments.hpp"
#include "offsite/blocks/cast.hpp"
#include "offsite/core/process.hpp"
#include "offsite/data/any_task.hpp"
#include "offsite/data/encode.hpp"
#include "offsite/data/load_tokenizer.hpp"
#include "offsite/emulator/any_drop.hpp"
#include "offsite/emulator/split_plan.hpp"
#include "offsite/eval/multiple_choice.hpp"
#include "offsite/eval/perplexity.hpp"
#include "offsite/eval/scores.hpp"
#include "offsite/io/model_folder.hpp"
#include "offsite/report/progress.hpp"
#include "offsite/report/table.hpp"
#include "offsite/session.hpp"
#include "offsite/trainer/events.hpp"

// What the subcommands have in common, generic over the model.

namespace program {

using namespace offsite;

/// In which type weights are kept when `--dtype` says nothing.
enum class Precision {
  kTraining,  ///< bfloat16 where the processor multiplies it, else float32
  kScoring,   ///< the checkpoint's own, so that scores are those of its weights
};

inline bool multiplies_bfloat16() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512bf16") != 0;
#else
  return false;
#endif
}

/// The type to compute in. \param own  the checkpoint's own type
inline at::ScalarType compute_type(Session& session, Precision precision, at::ScalarType own) {
  const auto& wish = session.common().dtype;
  at::ScalarType type = at::kFloat;
  if (wish == "bfloat16")
    type = at::kBFloat16;
  else if (wish == "auto" && precision == Precision::kTraining)
    type = multiplies_bfloat16() ? at::kBFloat16 : at::kFloat;
  else if (wish == "auto")
    type = own == at::kBFloat16 ? at::kBFloat16 : at::kFloat;
  session.computes_in(type == at::kFloat ? "float32" : "bfloat16");
  return type;
}

/// The type of most of a model's numbers: that of its first block's first parameter.
template <class Model>
at::ScalarType own_type(Model& model) {
  std::optional<at::ScalarType> type;
  BlockAccess<Model>::visit(BlockAccess<Model>::block(model, 0), [&](std::string_view, at::Tensor& tensor) {
    if (!type) type = tensor.scalar_type();
  });
  return type.value_or(at::kFloat);
}

/// The tokenizer of a folder, checked against the model. \throws ArgumentError if its ids do not fit.
inline AnyTokenizer tokenizer_for(const Path& folder, std::int64_t vocabulary) {
  AnyTokenizer tokenizer = load_tokenizer(folder);
  require(tokenizer.vocabulary_size() <= vocabulary,
          "the tokenizer in {} has {} tokens, but the model's vocabulary is {}: they do not fit each other",
          folder.string(), tokenizer.vocabulary_size(), vocabulary);
  return tokenizer;
}

/// Rows a sample may have. \throws ArgumentError if more were asked for than the model's context has.
inline std::int64_t max_length(const DataArguments& data, std::int64_t context) {
  require(data.max_length >= 0 && data.max_length <= context,
          "--max-length is {}, but the model's context is {}", data.max_length, context);
  return data.max_length > 0 ? data.max_length : context;
}

inline AnyTask task_of(const DataArguments& data) {
  return task_named(data.task, {data.prompt_template, data.completion_template});
}

inline EncodeOptions encode_options(const DataArguments& data, std::int64_t context) {
  require(data.skip >= 0, "--skip is {}, but it cannot be negative", data.skip);
  require(data.limit >= 0, "--limit is {}, but it must be positive, or 0 for all rows", data.limit);
  require(data.workers >= 0, "--workers is {}, but it cannot be negative", data.workers);
  return {max_length(data, context), bos_named(data.bos), data.workers};
}

/// Samples to train on, read and encoded. Says how many lost the beginning of their prompt.
inline std::vector<Sample> load_training(const Session& session, const DataArguments& data,
                                         const AnyTokenizer& tokenizer, std::int64_t context) {
  const auto task = task_of(data);
  const auto options = encode_options(data, context);
  auto encoded =
      encode_for_training(read_examples(task, data.data, data.range()), scoring_of(task), tokenizer, options);
  if (encoded.shortened > 0)
    session.say(fmt::format("{} of {} samples are longer than {} tokens: their prompts lost the beginning",
                            encoded.shortened, encoded.samples.size(), options.max_length));
  give_back_freed_memory();  // the file's text and rows
  return std::move(encoded.samples);
}

/// Held-out data, encoded once and scored as often as wanted.
struct Evaluation {
  bool has_choices = false;
  std::vector<Question> questions;  // with choices
  std::vector<Sample> samples;      // without
  std::int64_t batch_tokens = 4096;

  [[nodiscard]] std::int64_t size() const {
    return static_cast<std::int64_t>(has_choices ? questions.size() : samples.size());
  }
};

inline Evaluation load_evaluation(const Session& session, const DataArguments& data,
                                  const AnyTokenizer& tokenizer, std::int64_t context) {
  const auto task = task_of(data);
  const auto options = encode_options(data, context);
  const auto examples = read_examples(task, data.data, data.range());
  Evaluation result;
  result.has_choices = scoring_of(task) == Scoring::kMultipleChoice;
  std::int64_t shortened = 0;
  if (result.has_choices) {
    auto encoded = encode_questions(examples, tokenizer, options);
    result.questions = std::move(encoded.questions);
    shortened = encoded.shortened;
  } else {
    auto encoded = encode_for_loss(examples, scoring_of(task), tokenizer, options);
    result.samples = std::move(encoded.samples);
    shortened = encoded.shortened;
  }
  if (shortened > 0)
    session.say(fmt::format("{} of {} prompts are longer than {} tokens: they lost their beginning",
                            shortened, result.size(), options.max_length));
  return result;
}

/// Scores a model on held-out data. \param label  of the progress bar; empty = none is shown
template <class Model>
MultipleChoiceScores score(const Session& session, Model& model, const Evaluation& data,
                           const std::string& label = {}) {
  Progress progress({.label = label,
                     .total = data.size(),
                     .unit = data.has_choices ? "questions" : "samples",
                     .quiet = label.empty() || session.common().quiet});
  const EvaluationOptions options{data.batch_tokens, model.config.context_length(),
                                  [&](std::int64_t done, std::int64_t) { progress.update({.done = done}); }};
  MultipleChoiceScores result;
  if (data.has_choices)
    result = score_questions(model, data.questions, options);
  else
    result.scores = score_samples(model, data.samples, options).scores;
  progress.finish();
  return result;
}

inline void put_scores(Json& json, const Scores& scores) {
  const auto number = [](const std::optional<double>& value) { return value ? Json(*value) : Json(); };
  json["accuracy"] = number(scores.accuracy);
  json["accuracy_norm"] = number(scores.accuracy_norm);
  json["loss"] = scores.loss;
  json["perplexity"] = scores.perplexity();
}

/// The cells of a table's row for these scores: accuracy, normalised accuracy (per cent), loss, perplexity.
inline std::vector<Cell> score_cells(std::string name, const Scores& scores) {
  const auto percent = [](const std::optional<double>& share) {
    return Cell(share ? 100 * *share : std::nan(""), 1);
  };
  return {Cell(name), percent(scores.accuracy), percent(scores.accuracy_norm), Cell(scores.loss, 4),
          Cell(scores.perplexity(), 2)};
}
inline Table score_table(std::string what) {
  return Table({std::move(what), "accuracy %", "normalised %", "loss", "perplexity"});
}

/// A drop rule and the split options for it, as the command line says.
struct Cut {
  SplitOptions options;
  AnyDrop drop;
};
inline Cut cut_of(const SplitArguments& split, std::int64_t depth) {
  Cut cut{{split.bottom, split.top, split.emulator, {}}, AnyDrop::named(split.drop)};
  if (!split.adapter_blocks.empty())
    cut.options.adapter_blocks = parse_blocks(split.adapter_blocks, "--adapter-blocks");
  if (split.keep.empty()) return cut;
  const auto wanted = parse_blocks(split.keep, "--keep");
  const auto middle =
      offsite::detail::middle_blocks(depth, offsite::detail::adapter_blocks(depth, cut.options));
  ExplicitDrop kept;
  for (const auto number : wanted) {
    const auto place = std::lower_bound(middle.begin(), middle.end(), number);
    require(place != middle.end() && *place == number,
            "--keep names block {}, but the middle's blocks are {}", number, blocks_text(middle));
    kept.kept.push_back(place - middle.begin());
  }
  cut.options.emulator_blocks = static_cast<std::int64_t>(wanted.size());
  cut.drop = {kept};
  return cut;
}

}  // namespace program
