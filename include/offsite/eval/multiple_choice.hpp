#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "offsite/blocks/block_access.hpp"
#include "offsite/core/error.hpp"
#include "offsite/data/encode.hpp"
#include "offsite/data/sample.hpp"
#include "offsite/eval/evaluation_options.hpp"
#include "offsite/eval/perplexity.hpp"
#include "offsite/eval/row_packer.hpp"
#include "offsite/eval/scores.hpp"

namespace offsite {

/// What a model makes of one question.
struct QuestionScores {
  std::int64_t number = 0;                ///< row of its file, from 0
  std::int64_t answer = 0;                ///< the right choice
  std::int64_t predicted = 0;             ///< the likeliest choice, the first of several
  std::int64_t predicted_norm = 0;        ///< the same by log-likelihoods divided by the choices' lengths
  std::vector<double> log_likelihoods{};  ///< of each choice's tokens after the prompt, in nats
};

/// What a model makes of all questions, in their order.
struct MultipleChoiceScores {
  Scores scores;
  std::vector<QuestionScores> questions;
};

namespace detail {

/// How one question is computed: which of its choices, and how many tokens they have in common.
struct QuestionPlan {
  std::vector<std::int64_t> same_as;  ///< for each choice the first equal one, itself if there is none before
  std::int64_t prefix = 0;  ///< rows computed once for all; 0 = each choice is a sequence of its own
  std::int64_t rows = 0;
};

/// \throws ArgumentError for a question whose parts do not fit each other.
inline void check_question(const Question& question, std::int64_t context) {
  const auto count = static_cast<std::int64_t>(question.choices.size());
  require(count > 0 && 0 <= question.answer && question.answer < count,
          "row {}: the right choice is number {}, but there are {} choices", question.number + 1,
          question.answer, count);
  require(question.characters.size() == question.choices.size(),
          "row {}: {} lengths were given for {} choices", question.number + 1, question.characters.size(),
          count);
  const auto& first = question.choices.front().tokens;
  for (std::size_t c = 0; c < question.choices.size(); ++c) {
    const auto& choice = question.choices[c];
    check_sample(choice, context);
    require(question.characters[c] > 0,
            "row {}: choice {} has a length of {} characters, but lengths are positive", question.number + 1,
            c, question.characters[c]);
    require(0 <= question.shared && question.shared <= choice.scored_from &&
                std::equal(first.begin(), first.begin() + question.shared, choice.tokens.begin()),
            "row {}: {} tokens are said to begin all choices alike, unscored, but in choice {} they do not",
            question.number + 1, question.shared, c);
  }
}

inline QuestionPlan plan_question(const Question& question, bool shares_prefixes) {
  QuestionPlan plan;
  std::int64_t distinct = 0;
  for (std::size_t c = 0; c < question.choices.size(); ++c) {
    const auto same = std::find(question.choices.begin(), question.choices.end(), question.choices[c]);
    plan.same_as.push_back(same - question.choices.begin());
    if (plan.same_as[c] != static_cast<std::int64_t>(c)) continue;
    ++distinct;
    plan.rows += question.choices[c].rows();
  }
  if (shares_prefixes && distinct > 1) {
    plan.prefix = question.shared;
    plan.rows -= (distinct - 1) * plan.prefix;
  }
  return plan;
}

/// Packs a question; the owner of choice c's tokens is `owner` + c.
inline void add_question(RowPacker& packer, const Question& question, const QuestionPlan& plan,
                         std::int64_t owner) {
  std::int64_t parent = -1, parent_begin = 0;
  if (plan.prefix > 0) {
    parent = packer.sequences();
    parent_begin =
        packer.add(std::span(question.choices.front().tokens).first(static_cast<std::size_t>(plan.prefix)));
  }
  for (std::size_t c = 0; c < question.choices.size(); ++c) {
    if (plan.same_as[c] != static_cast<std::int64_t>(c)) continue;
    const auto& choice = question.choices[c];
    const auto own = choice.rows() - plan.prefix;  // none if the prompt's last token predicts all there is
    const auto begin =
        own == 0
            ? 0
            : packer.add(std::span(choice.tokens)
                             .subspan(static_cast<std::size_t>(plan.prefix), static_cast<std::size_t>(own)),
                         parent);
    for (auto t = choice.scored_from; t <= choice.rows(); ++t) {
      const auto row = t - 1 < plan.prefix ? parent_begin + t - 1 : begin + t - 1 - plan.prefix;
      packer.score(row, choice.tokens[static_cast<std::size_t>(t)], owner + static_cast<std::int64_t>(c));
    }
  }
}

/// Which choice a question's log-likelihoods speak for.
inline void predict(QuestionScores& scores, std::span<const std::int64_t> characters) {
  std::vector<double> norm;
  for (std::size_t c = 0; c < characters.size(); ++c)
    norm.push_back(scores.log_likelihoods[c] / static_cast<double>(characters[c]));
  const auto& plain = scores.log_likelihoods;
  scores.predicted = std::max_element(plain.begin(), plain.end()) - plain.begin();  // the first of several
  scores.predicted_norm = std::max_element(norm.begin(), norm.end()) - norm.begin();
}

/// Accuracies, and the loss of the right answers.
inline Scores summarise(std::span<const Question> questions, std::span<const QuestionScores> results) {
  Scores scores;
  double right = 0, right_norm = 0, sum = 0;
  for (std::size_t q = 0; q < questions.size(); ++q) {
    const auto answer = static_cast<std::size_t>(questions[q].answer);
    right += results[q].predicted == results[q].answer ? 1 : 0;
    right_norm += results[q].predicted_norm == results[q].answer ? 1 : 0;
    sum += results[q].log_likelihoods[answer];
    scores.scored_tokens += questions[q].choices[answer].scored();
  }
  const auto count = static_cast<double>(questions.size());
  scores.examples = static_cast<std::int64_t>(questions.size());
  scores.accuracy = right / count;
  scores.accuracy_norm = right_norm / count;
  scores.loss = -sum / static_cast<double>(scores.scored_tokens);
  return scores;
}

}  // namespace detail

/// Answers questions by the log-likelihood of each choice after its prompt.
///
/// Where blocks share prefixes, the tokens that begin all choices of a question are computed once. Choices of equal
/// tokens get equal scores, bit for bit. The results do not depend on `batch_tokens` beyond rounding.
/// \throws ArgumentError if there is no question, one's parts do not fit each other, or a choice is longer than the
/// context; NumericError for NaN.
template <class Model, class Access = BlockAccess<Model>>
[[nodiscard]] MultipleChoiceScores score_questions(Model& model, std::span<const Question> questions,
                                                   const EvaluationOptions& options = {}) {
  options.check();
  require(!questions.empty(), "there is no question to score");
  MultipleChoiceScores result;
  std::vector<detail::QuestionPlan> plans;
  std::vector<std::int64_t> rows, first_owner;
  std::vector<double> sums;  // one a choice of all questions
  std::vector<std::int64_t> numbers;
  for (const auto& question : questions) {
    detail::check_question(question, options.context);
    plans.push_back(detail::plan_question(question, SharesPrefixes<Access>));
    rows.push_back(plans.back().rows);
    first_owner.push_back(static_cast<std::int64_t>(sums.size()));
    sums.resize(sums.size() + question.choices.size());
    numbers.resize(sums.size(), question.number);
  }
  const auto add = [&](RowPacker& packer, std::int64_t item) {
    const auto q = static_cast<std::size_t>(item);
    detail::add_question(packer, questions[q], plans[q], first_owner[q]);
  };
  const auto take = [&](const ScoredRows::Target& target, double value) {
    const auto owner = static_cast<std::size_t>(target.owner);
    detail::check_number(value, numbers[owner]);
    sums[owner] += value;
  };
  detail::score_batches<Access>(model, rows, options, add, take);

  for (std::size_t q = 0; q < questions.size(); ++q) {
    QuestionScores scores{.number = questions[q].number, .answer = questions[q].answer};
    for (const auto same : plans[q].same_as)
      scores.log_likelihoods.push_back(sums[static_cast<std::size_t>(first_owner[q] + same)]);
    detail::predict(scores, questions[q].characters);
    result.questions.push_back(std::move(scores));
  }
  result.scores = detail::summarise(questions, result.questions);
  return result;
}

}  // namespace offsite
