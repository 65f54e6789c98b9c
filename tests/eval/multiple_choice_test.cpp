#include "offsite/eval/multiple_choice.hpp"

#include <numeric>

#include "eval/models.hpp"
#include "support/test.hpp"  // last: see there
#include "trainer/own_model.hpp"

namespace multiple_choice_test {

using namespace offsite;
using namespace evaluation;

namespace {

/// Questions of all shapes a task can give, within 24 rows.
std::vector<Question> questions() {
  std::mt19937 random(3);
  const auto make = [&](std::int64_t prompt, const std::vector<std::int64_t>& lengths, std::int64_t answer) {
    std::vector<Tokens> choices;
    for (const auto n : lengths) choices.push_back(random_tokens(random, n));
    return question(random_tokens(random, prompt), choices, answer);
  };
  std::vector<Question> all{make(5, {2, 3, 1, 4}, 2), make(1, {1, 1}, 0),     make(12, {1, 1, 1}, 1),
                            make(9, {6}, 0),          make(20, {5, 3, 4}, 0), make(24, {1, 1, 1, 1}, 3)};
  for (int i = 0; i < 12; ++i) all.push_back(make(2 + i, {1 + i % 3, 2, 5}, i % 3));
  // The join may change a prompt's last tokens, and cutting may change all of it.
  auto differs = make(6, {3, 3}, 1);
  differs.choices[1].tokens[4] = (differs.choices[1].tokens[4] + 1) % 40;
  differs.shared = 4;
  all.push_back(differs);
  differs.choices[1].tokens[0] = (differs.choices[1].tokens[0] + 1) % 40;
  differs.shared = 0;
  all.push_back(differs);
  for (std::size_t q = 0; q < all.size(); ++q) {
    all[q].number = static_cast<std::int64_t>(q) + 100;
    for (auto& choice : all[q].choices) choice.number = all[q].number;
  }
  return all;
}

template <class Model, class Access = BlockAccess<Model>>
void check_against_reference(Model& model, const MultipleChoiceScores& found,
                             const std::vector<Question>& all) {
  double right = 0, right_norm = 0, loss = 0;
  std::int64_t tokens = 0;
  REQUIRE(found.questions.size() == all.size());
  for (std::size_t q = 0; q < all.size(); ++q) {
    INFO("question ", q);
    const auto& scores = found.questions[q];
    CHECK(scores.number == all[q].number);
    CHECK(scores.answer == all[q].answer);
    REQUIRE(scores.log_likelihoods.size() == all[q].choices.size());
    std::size_t best = 0, best_norm = 0;
    std::vector<double> expected;
    for (std::size_t c = 0; c < all[q].choices.size(); ++c) {
      const auto& choice = all[q].choices[c];
      expected.push_back(sum(reference<Model, Access>(model, choice.tokens, choice.scored_from)));
      CHECK(std::abs(scores.log_likelihoods[c] - expected[c]) <= 1e-5 * (1 + std::abs(expected[c])));
      if (expected[c] > expected[best]) best = c;
      if (expected[c] / static_cast<double>(all[q].characters[c]) >
          expected[best_norm] / static_cast<double>(all[q].characters[best_norm]))
        best_norm = c;
    }
    const auto answer = static_cast<std::size_t>(all[q].answer);
    CHECK(scores.predicted == static_cast<std::int64_t>(best));
    CHECK(scores.predicted_norm == static_cast<std::int64_t>(best_norm));
    right += best == answer;
    right_norm += best_norm == answer;
    loss -= expected[answer];
    tokens += all[q].choices[answer].scored();
  }
  const auto count = static_cast<double>(all.size());
  CHECK(found.scores.examples == static_cast<std::int64_t>(all.size()));
  CHECK(found.scores.scored_tokens == tokens);
  CHECK(found.scores.accuracy == right / count);
  CHECK(found.scores.accuracy_norm == right_norm / count);
  CHECK(found.scores.loss == doctest::Approx(loss / static_cast<double>(tokens)).epsilon(1e-5));
  CHECK(found.scores.perplexity() ==
        doctest::Approx(std::exp(loss / static_cast<double>(tokens))).epsilon(1e-4));
}

}  // namespace

TEST_CASE("score_questions: equals one sequence a choice with full logits, for any budget") {
  auto model = small_model();
  const auto all = questions();
  for (const std::int64_t budget : {1, 30, 64, 4096}) {
    INFO("budget ", budget);
    const EvaluationOptions options{.batch_tokens = budget, .context = 24};
    check_against_reference(model, score_questions(model, all, options), all);
  }
}

TEST_CASE("score_questions: the same without shared prefixes, by plain blocks and by a user's own model") {
  auto model = small_model();
  const auto all = questions();
  for (const std::int64_t budget : {1, 4096}) {
    const EvaluationOptions options{.batch_tokens = budget};
    check_against_reference<Gpt2, PlainAccess>(model, score_questions<Gpt2, PlainAccess>(model, all, options),
                                               all);
    auto own_model = own::random_model(2, 11);
    check_against_reference(own_model, score_questions(own_model, all, options), all);
  }
}

TEST_CASE("score_questions: a shared prefix is computed once, an unshared one in each choice") {
  const auto all = questions();
  const auto rows_of = [](const Question& q, bool shares) {
    RowPacker packer;
    detail::add_question(packer, q, detail::plan_question(q, shares), 0);
    const auto packed = std::move(packer).finish();
    CHECK(packed.sequences.rows() == detail::plan_question(q, shares).rows);
    return packed;
  };
  CHECK(rows_of(all[0], true).sequences.rows() == 5 + 1 + 2 + 0 + 3);
  CHECK(rows_of(all[0], true).rows.numel() ==
        1 + 1 + 2 + 0 + 3);  // the prompt's last row predicts four tokens
  CHECK(rows_of(all[0], true).targets.size() == 10);
  CHECK(rows_of(all[0], false).sequences.rows() == 6 + 7 + 5 + 8);
  CHECK(rows_of(all[0], false).sequences.parents.empty());
  CHECK(rows_of(all[5], true).sequences.count() ==
        1);  // single-token choices: the prompt predicts all of them
  CHECK(rows_of(all[5], true).rows.numel() == 1);
  auto twice = all[0];
  twice.choices[3] = twice.choices[1];  // of equal choices the first is computed
  CHECK(rows_of(twice, true).sequences.rows() == 5 + 1 + 2 + 0);
  CHECK(rows_of(twice, false).targets.size() == 6);
  CHECK(rows_of(all[3], true).sequences.parents.empty());  // one choice shares with nobody
}

TEST_CASE("score_questions: ties go to the first, and equal choices tie exactly") {
  auto model = small_model();
  std::mt19937 random(8);
  const auto choice = random_tokens(random, 3), other = random_tokens(random, 3);
  std::vector<Question> all;
  for (int i = 0; i < 20; ++i) {
    const auto prompt = random_tokens(random, 3 + i);
    all.push_back(question(prompt, {choice, other, choice, other}, 2));
    all.push_back(question(prompt, {other, choice, other, choice}, 2));
  }
  all.resize(38);  // 24 rows at most
  for (const auto& scores : score_questions(model, all).questions) {
    CHECK(scores.log_likelihoods[0] == scores.log_likelihoods[2]);
    CHECK(scores.log_likelihoods[1] == scores.log_likelihoods[3]);
    CHECK(scores.predicted < 2);
    CHECK(scores.predicted_norm < 2);
  }
  for (auto& q : all) q.choices[1] = q.choices[2] = q.choices[3] = q.choices[0];
  CHECK(score_questions(model, all).scores.accuracy == 0.0);  // the answer is the third
}

TEST_CASE("score_questions: accuracy_norm divides by the length in characters") {
  auto model = small_model();
  std::mt19937 random(4);
  auto q = question(random_tokens(random, 4), {random_tokens(random, 1), random_tokens(random, 4)}, 1);
  const auto before = score_questions(model, std::span(&q, 1)).questions[0];
  REQUIRE(before.predicted == 0);
  q.characters = {1, 1'000};
  const auto found = score_questions(model, std::span(&q, 1));
  CHECK(found.questions[0].predicted_norm == 1);
  CHECK(found.scores.accuracy == 0.0);
  CHECK(found.scores.accuracy_norm == 1.0);
}

TEST_CASE("score_questions: questions come back in their order, progress is told to the end") {
  auto model = small_model();
  const auto all = questions();
  std::vector<std::int64_t> done;
  EvaluationOptions options{.batch_tokens = 40};
  options.progress = [&](std::int64_t n, std::int64_t total) {
    CHECK(total == static_cast<std::int64_t>(all.size()));
    done.push_back(n);
  };
  const auto together = score_questions(model, all, options);
  CHECK(done.size() > 1);
  CHECK(std::is_sorted(done.begin(), done.end()));
  CHECK(done.back() == static_cast<std::int64_t>(all.size()));
  for (std::size_t q = 0; q < all.size(); ++q) {
    const auto alone = score_questions(model, std::span(&all[q], 1));
    for (std::size_t c = 0; c < all[q].choices.size(); ++c)
      CHECK(together.questions[q].log_likelihoods[c] ==
            doctest::Approx(alone.questions[0].log_likelihoods[c]).epsilon(1e-5));
  }
}

TEST_CASE("score_questions: the head's pieces join without a seam") {
  auto model = small_model();
  std::mt19937 random(9);
  std::vector<Question> all;
  for (int i = 0; i < 60; ++i)
    all.push_back(question(random_tokens(random, 4), {random_tokens(random, 18), random_tokens(random, 20)}));
  const auto found = score_questions(model, all);  // 36 scored rows each: several pieces of 512
  check_against_reference(model, found, all);
}

TEST_CASE("score_questions: what cannot be scored is refused in a sentence") {
  auto model = small_model();
  std::mt19937 random(1);
  const auto prompt = random_tokens(random, 4);
  const auto good = question(prompt, {random_tokens(random, 2), random_tokens(random, 2)}, 0, 6);
  const auto message = [&](auto change, const EvaluationOptions& options = {}) {
    auto q = good;
    change(q);
    return support::message_of<ArgumentError>(
        [&] { (void)score_questions(model, std::span(&q, 1), options); });
  };
  CHECK(message([](Question& q) { q.answer = 2; }) ==
        "row 7: the right choice is number 2, but there are 2 choices");
  CHECK(message([](Question& q) { q.choices.clear(); }).starts_with("row 7: the right choice"));
  CHECK(message([](Question& q) { q.characters.pop_back(); }) == "row 7: 1 lengths were given for 2 choices");
  CHECK(message([](Question& q) { q.characters[1] = 0; }).starts_with("row 7: choice 1 has a length of 0"));
  CHECK(message([](Question& q) { q.shared = 5; }).starts_with("row 7: 5 tokens are said"));
  CHECK(message([](Question& q) { ++q.choices[1].tokens[2]; }).starts_with("row 7: 4 tokens are said"));
  CHECK(
      message([](Question& q) { q.choices[0].scored_from = 6; }).starts_with("row 7: a sample of 6 tokens"));
  CHECK(message([](Question&) {}, {.context = 4}).find("5 packed rows, but the model's context holds 4") !=
        std::string::npos);
  CHECK(message([](Question&) {}, {.batch_tokens = 0}).starts_with("batch_tokens is 0"));
  CHECK(message([](Question&) {}, {.context = -1}).starts_with("context is -1"));
  CHECK(message([](Question& q) { q.choices[0].tokens.back() = 40; }).find("40") != std::string::npos);
  CHECK(message([](Question& q) { q.choices[0].tokens.back() = -1; }).find("-1") != std::string::npos);
  CHECK(support::message_of<ArgumentError>([&] { (void)score_questions(model, {}); }) ==
        "there is no question to score");
}

TEST_CASE("score_questions: a model that gives NaN is found out") {
  auto model = small_model();
  model.head.norm->weight.fill_(NAN);
  const auto all = questions();
  CHECK(support::message_of<NumericError>([&] { (void)score_questions(model, all); }).find("NaN") !=
        std::string::npos);
}

TEST_CASE("plan_rows: every item once, within the budget unless alone") {
  const std::vector<std::int64_t> rows{3, 9, 1, 5, 5, 2, 7, 1};
  std::vector<int> seen(rows.size());
  for (const auto& batch : plan_rows(rows, 8)) {
    std::int64_t total = 0;
    for (const auto i : batch) {
      total += rows[static_cast<std::size_t>(i)];
      ++seen[static_cast<std::size_t>(i)];
    }
    CHECK((total <= 8 || batch.size() == 1));
  }
  CHECK(std::all_of(seen.begin(), seen.end(), [](int n) { return n == 1; }));
  CHECK(plan_rows(rows, 100).size() == 1);
  CHECK(plan_rows({}, 8).empty());
}

}  // namespace multiple_choice_test
