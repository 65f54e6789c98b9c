#include "offsite/eval/perplexity.hpp"

#include "eval/models.hpp"
#include "offsite/eval/token_scores.hpp"
#include "support/test.hpp"  // last: see there
#include "trainer/own_model.hpp"

namespace perplexity_test {

using namespace offsite;
using namespace evaluation;

namespace {

std::vector<Sample> samples() {
  std::mt19937 random(2);
  std::vector<Sample> all;
  for (std::int64_t i = 0; i < 24; ++i) {
    const auto size = 2 + (i * 7) % 24;
    all.push_back({random_tokens(random, size), 1 + i % (size - 1), i});
  }
  all.push_back({random_tokens(random, 25), 1, 24});
  return all;
}

template <class Model, class Access = BlockAccess<Model>>
void check(Model& model, const EvaluationOptions& options) {
  const auto all = samples();
  const auto found = score_samples<Model, Access>(model, all, options);
  double total = 0;
  std::int64_t tokens = 0;
  for (std::size_t i = 0; i < all.size(); ++i) {
    const auto expected = sum(reference<Model, Access>(model, all[i].tokens, all[i].scored_from));
    CHECK(std::abs(found.log_likelihoods[i] - expected) <= 1e-5 * (1 + std::abs(expected)));
    total += expected;
    tokens += all[i].scored();
  }
  CHECK(found.scores.examples == 25);
  CHECK(found.scores.scored_tokens == tokens);
  CHECK(!found.scores.accuracy);
  CHECK(!found.scores.accuracy_norm);
  CHECK(found.scores.loss == doctest::Approx(-total / static_cast<double>(tokens)).epsilon(1e-5));
  CHECK(found.scores.perplexity() == doctest::Approx(std::exp(found.scores.loss)));
}

}  // namespace

TEST_CASE("score_samples: equals the mean over tokens of one sequence after another, for any budget") {
  auto model = small_model();
  auto own_model = own::random_model(2, 11);
  for (const std::int64_t budget : {1, 50, 4096}) {
    const EvaluationOptions options{.batch_tokens = budget};
    check(model, options);
    check<Gpt2, PlainAccess>(model, options);
    check(own_model, options);
  }
}

TEST_CASE("score_samples: what cannot be scored is refused in a sentence") {
  auto model = small_model();
  const auto message = [&](const Sample& sample, const EvaluationOptions& options = {}) {
    return support::message_of<ArgumentError>(
        [&] { (void)score_samples(model, std::span(&sample, 1), options); });
  };
  CHECK(message({{1, 2, 3}, 0, 4}).starts_with("row 5: a sample of 3 tokens is scored from token 0"));
  CHECK(message({{1, 2, 3}, 3, 4}).starts_with("row 5: a sample of 3 tokens is scored from token 3"));
  CHECK(message({{}, 1, 4}).starts_with("row 5: a sample of 0 tokens"));
  CHECK(message({{1, 2, 3, 4}, 1, 4}, {.context = 2}).starts_with("row 5: a sample has 3 packed rows"));
  CHECK(message({Tokens(30, 1), 1, 4}).find("24") != std::string::npos);  // the model's own context
  CHECK(support::message_of<ArgumentError>([&] { (void)score_samples(model, {}); }) ==
        "there is no sample to score");
  model.wte.fill_(NAN);
  const Sample good{{1, 2, 3}, 1, 4};
  CHECK(support::message_of<NumericError>([&] { (void)score_samples(model, std::span(&good, 1)); }) ==
        "row 5: the model gives NaN as the log-probability of a token");
}

TEST_CASE("score_lines: each token once, the first without a number, long lines in windows") {
  auto model = small_model();
  std::mt19937 random(6);
  std::vector<Tokens> lines;
  for (const int size : {5, 0, 1, 2, 25, 26, 49, 60, 24}) lines.push_back(random_tokens(random, size));
  for (const std::int64_t budget : {1, 4096}) {
    const auto found = score_lines(model, lines, {.batch_tokens = budget, .context = 24});
    REQUIRE(found.size() == lines.size());
    for (std::size_t i = 0; i < lines.size(); ++i) {
      INFO("line ", i);
      const auto& line = lines[i];
      REQUIRE(found[i].size() == line.size());
      if (!line.empty()) CHECK(!found[i][0]);
      for (std::size_t t = 1; t < line.size(); ++t) {
        // Tokens 1-24 see all before them, 25-48 likewise from token 24 on; the last window is full.
        const auto window = (t - 1) / 24, end = std::min<std::size_t>(window * 24 + 25, line.size());
        const auto begin = end > 25 ? end - 25 : 0;
        const Tokens seen(line.begin() + static_cast<std::ptrdiff_t>(begin),
                          line.begin() + static_cast<std::ptrdiff_t>(t) + 1);
        const auto expected = reference(model, seen, static_cast<std::int64_t>(seen.size()) - 1)[0];
        REQUIRE(found[i][t]);
        CHECK(std::abs(*found[i][t] - expected) <= 1e-5 * (1 + std::abs(expected)));
      }
    }
  }
  CHECK(score_lines(model, {}, {.context = 24}).empty());
  CHECK(support::message_of<ArgumentError>([&] {
          (void)score_lines(model, lines, {});
        }).starts_with("context is 0"));
  const std::vector<Tokens> outside{{1, 40}};
  CHECK(support::message_of<ArgumentError>([&] { (void)score_lines(model, outside, {.context = 24}); }) ==
        "token id 40 is to be scored, but the vocabulary has 40 tokens");
}

}  // namespace perplexity_test
