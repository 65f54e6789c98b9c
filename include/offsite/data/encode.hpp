#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/core/utf8.hpp"
#include "offsite/data/for_each_row.hpp"
#include "offsite/data/rolling_windows.hpp"
#include "offsite/data/sample.hpp"
#include "offsite/data/task.hpp"
#include "offsite/data/tokenizer.hpp"

namespace offsite {

/// Whether the begin-of-text token goes before the prompt.
enum class Bos : std::uint8_t {
  kAuto,  ///< if the tokenizer's own files say so
  kNo,
  kYes,
};

/// \throws ArgumentError unless `name` is auto, no or yes.
[[nodiscard]] inline Bos bos_named(std::string_view name) {
  require(name == "auto" || name == "no" || name == "yes", "bos is '{}', but must be auto, no or yes", name);
  return name == "auto" ? Bos::kAuto : name == "no" ? Bos::kNo : Bos::kYes;
}

/// How examples become tokens.
struct EncodeOptions {
  std::int64_t max_length = 1024;  ///< packed rows a sample may have, > 0: the model's context or less
  Bos bos = Bos::kAuto;
  std::int64_t workers = 0;  ///< threads beside the calling one; the result does not depend on it
};

/// Samples in file order, and how many of them lost the beginning of their prompt.
struct EncodedSamples {
  std::vector<Sample> samples;
  std::int64_t shortened = 0;
};

/// One multiple-choice question: the prompt with each of its choices, of which the choice is scored.
struct Question {
  std::vector<Sample> choices;  ///< one a choice; all have the question's number
  std::vector<std::int64_t>
      characters;           ///< code points of each choice, at least 1: what accuracy_norm divides by
  std::int64_t answer = 0;  ///< index of the right choice
  std::int64_t number = 0;  ///< row of its file, from 0
  std::int64_t shared = 0;  ///< tokens that begin every choice alike, none of them scored in any
};

/// Questions in file order, and how many of them lost the beginning of their prompt in at least one choice.
struct EncodedQuestions {
  std::vector<Question> questions;
  std::int64_t shortened = 0;
};

namespace detail {

/// The special tokens that one run of encoding puts around its texts.
struct SpecialTokens {
  std::optional<std::int32_t> begin;  ///< before every prompt
  std::optional<std::int32_t>
      prefix;                       ///< before a text that has nothing else to predict its first token from
  std::optional<std::int32_t> end;  ///< after every answer of training
};

template <Tokenizer T>
SpecialTokens special_tokens(const T& tokenizer, Bos bos) {
  const std::optional<std::int32_t> begin = tokenizer.bos_id(), end = tokenizer.eos_id();
  const bool wanted = bos == Bos::kYes || (bos == Bos::kAuto && tokenizer.adds_bos());
  require(!wanted || begin.has_value(), "bos is {}, but the tokenizer has no begin-of-text token",
          bos == Bos::kYes ? "yes" : "auto and the tokenizer's files ask for it");
  SpecialTokens result{std::nullopt, std::nullopt, end};
  if (wanted) result.begin = begin;
  if (bos != Bos::kNo) result.prefix = begin ? begin : end;
  return result;
}

/// Puts what must precede it before a text of which `context` tokens are not scored; returns where scoring
/// begins.
inline std::int64_t add_prefix(std::vector<std::int32_t>& tokens, std::int64_t context,
                               const SpecialTokens& special) {
  const auto first = special.begin ? special.begin : context == 0 ? special.prefix : std::nullopt;
  if (first) tokens.insert(tokens.begin(), *first);
  return std::max<std::int64_t>(context + (first ? 1 : 0),
                                1);  // without a prefix the first token is context itself
}

/// Cuts the beginning of a sample that is too long; what is scored stays whole. Returns whether it was cut.
inline bool shorten(Sample& sample, std::int64_t max_length, std::string_view what) {
  require(sample.scored() > 0, "row {}: the {} has no tokens that could be scored", sample.number + 1, what);
  require(sample.scored() <= max_length,
          "row {}: the {} alone has {} tokens, but max_length is {} and answers are never cut",
          sample.number + 1, what, sample.scored(), max_length);
  const auto excess = sample.rows() - max_length;
  if (excess <= 0) return false;
  sample.tokens.erase(sample.tokens.begin(), sample.tokens.begin() + excess);
  sample.scored_from -= excess;
  return true;
}

/// Prompt and answer encoded together, as for scoring, then the end of text. The context is what the ids have in common
/// with the prompt's own: all of the prompt, or less where its end and the answer share a token.
template <Tokenizer T>
Sample encode_for_training(const Example& example, const T& tokenizer, const SpecialTokens& special) {
  Sample sample{tokenizer.encode(example.prompt + example.continuation()), 1, example.number};
  const auto prompt = tokenizer.encode(example.prompt);
  const auto context =
      std::mismatch(prompt.begin(), prompt.end(), sample.tokens.begin(), sample.tokens.end());
  sample.scored_from = add_prefix(sample.tokens, context.first - prompt.begin(), special);
  sample.tokens.push_back(*special.end);
  return sample;
}

/// The prompt and what follows it, encoded together and split at the length of the prompt's own encoding.
/// White space at the prompt's end belongs to what follows, as in lm-evaluation-harness: byte-level tokens
/// begin with it.
template <Tokenizer T>
Sample encode_for_scoring(const std::string& prompt, std::int64_t context, std::string_view following,
                          std::int64_t number, const T& tokenizer, const SpecialTokens& special) {
  std::string text;
  text.reserve(prompt.size() + following.size());
  text.append(prompt).append(following);
  Sample sample{tokenizer.encode(text), 1, number};
  sample.scored_from = add_prefix(sample.tokens, context, special);
  return sample;
}

template <Tokenizer T>
std::int64_t context_length(const std::string& prompt, const T& tokenizer) {
  return static_cast<std::int64_t>(tokenizer.encode(strip_right(prompt)).size());
}

template <Tokenizer T>
bool encode_question(const Example& example, const T& tokenizer, const EncodeOptions& options,
                     const SpecialTokens& special, Question& question) {
  const auto context = context_length(example.prompt, tokenizer);
  question.answer = example.answer;
  question.number = example.number;
  bool cut = false;
  for (const auto& choice : example.choices) {
    auto sample =
        encode_for_scoring(example.prompt, context, " " + choice, example.number, tokenizer, special);
    cut |= shorten(sample, options.max_length, "choice '" + choice + "'");
    question.characters.push_back(std::max<std::int64_t>(count_code_points(choice), 1));
    question.choices.push_back(std::move(sample));
  }
  const auto& first = question.choices.front().tokens;
  question.shared = question.choices.front().scored_from;
  for (const auto& choice : question.choices) {
    const auto most = std::min(question.shared, choice.scored_from);
    const auto differ = std::mismatch(first.begin(), first.begin() + most, choice.tokens.begin());
    question.shared = differ.first - first.begin();
  }
  return cut;
}

/// One sample an example, written by `encode(example, sample)`, which returns whether it was cut.
template <class Encode>
EncodedSamples encode_each(std::span<const Example> examples, std::int64_t workers, const Encode& encode) {
  EncodedSamples result;
  result.samples.resize(examples.size());
  std::atomic<std::int64_t> shortened{0};
  for_each_row(examples.size(), workers, [&](std::size_t i) {
    if (encode(examples[i], result.samples[i])) ++shortened;
  });
  result.shortened = shortened;
  return result;
}

/// Rolling windows over the documents; a window's number is its place among all windows.
template <Tokenizer T>
EncodedSamples encode_windows(std::span<const Example> examples, const T& tokenizer,
                              const EncodeOptions& options, const SpecialTokens& special) {
  std::vector<std::vector<std::int32_t>> documents(examples.size());
  for_each_row(examples.size(), options.workers,
               [&](std::size_t i) { documents[i] = tokenizer.encode(examples[i].completion); });
  EncodedSamples result;
  for (const auto& document : documents)
    for (auto& window : rolling_windows(document, special.prefix, options.max_length)) {
      window.number = static_cast<std::int64_t>(result.samples.size());
      result.samples.push_back(std::move(window));
    }
  require(!result.samples.empty(), "the text has no token that could be scored");
  return result;
}

inline void check_max_length(const EncodeOptions& options) {
  require(options.max_length > 0, "max_length is {}, but a sample needs at least one row",
          options.max_length);
}

}  // namespace detail

/// The samples a model is trained on: the prompt, then the answer and the end-of-text token, which are
/// scored. Prompt and answer have the ids that `encode_questions` and `encode_for_loss` give them, so that a model is
/// scored by what it was taught. Text becomes rolling windows. A prompt that makes a sample longer than `max_length` rows
/// loses its beginning. \throws ArgumentError if an answer alone does not fit (names the row), or the tokenizer lacks a
/// token that is needed.
template <Tokenizer T>
[[nodiscard]] EncodedSamples encode_for_training(std::span<const Example> examples, Scoring scoring,
                                                 const T& tokenizer, const EncodeOptions& options = {}) {
  detail::check_max_length(options);
  const auto special = detail::special_tokens(tokenizer, options.bos);
  if (scoring == Scoring::kText) return detail::encode_windows(examples, tokenizer, options, special);
  require(special.end.has_value(),
          "the tokenizer has no end-of-text token, but training ends answers with it");
  return detail::encode_each(examples, options.workers, [&](const Example& example, Sample& sample) {
    sample = detail::encode_for_training(example, tokenizer, special);
    return detail::shorten(sample, options.max_length, "answer with its end of text");
  });
}

/// The samples whose loss a task without choices is scored by: the completion after its prompt (no end of
/// text), or the rolling windows of text. \throws ArgumentError if a completion alone does not fit into
/// `max_length` rows, or has no token to be scored.
template <Tokenizer T>
[[nodiscard]] EncodedSamples encode_for_loss(std::span<const Example> examples, Scoring scoring,
                                             const T& tokenizer, const EncodeOptions& options = {}) {
  detail::check_max_length(options);
  const auto special = detail::special_tokens(tokenizer, options.bos);
  if (scoring == Scoring::kText) return detail::encode_windows(examples, tokenizer, options, special);
  return detail::encode_each(examples, options.workers, [&](const Example& example, Sample& sample) {
    const auto context = detail::context_length(example.prompt, tokenizer);
    sample = detail::encode_for_scoring(example.prompt, context, example.continuation(), example.number,
                                        tokenizer, special);
    return detail::shorten(sample, options.max_length, "completion");
  });
}

/// The questions of a multiple-choice task, each choice encoded together with its prompt. Prompts longer than
/// the context lose their beginning, each choice's by as much as its own length asks. \throws ArgumentError
/// if an example has no choices, or one of them alone does not fit into `max_length` rows.
template <Tokenizer T>
[[nodiscard]] EncodedQuestions encode_questions(std::span<const Example> examples, const T& tokenizer,
                                                const EncodeOptions& options = {}) {
  detail::check_max_length(options);
  const auto special = detail::special_tokens(tokenizer, options.bos);
  EncodedQuestions result;
  result.questions.resize(examples.size());
  std::atomic<std::int64_t> shortened{0};
  detail::for_each_row(examples.size(), options.workers, [&](std::size_t i) {
    require(!examples[i].choices.empty(), "row {}: a question without choices cannot be answered",
            examples[i].number + 1);
    if (detail::encode_question(examples[i], tokenizer, options, special, result.questions[i])) ++shortened;
  });
  result.shortened = shortened;
  return result;
}

}  // namespace offsite
