// Evaluation against values that Hugging Face transformers computed: see tests/golden/make_evaluation.py.
#include "eval/models.hpp"
#include "offsite/eval/generate.hpp"
#include "offsite/eval/multiple_choice.hpp"
#include "offsite/eval/perplexity.hpp"
#include "offsite/eval/token_scores.hpp"
#include "support/test.hpp"  // last: see there

namespace evaluation_golden_test {

using namespace offsite;
using namespace evaluation;

namespace {

void check_questions(Gpt2& model, const Json& expected) {
  std::vector<Question> all;
  for (const auto& q : expected)
    all.push_back(question(q.at("prompt").get<Tokens>(), q.at("choices").get<std::vector<Tokens>>()));
  const auto shared = score_questions(model, all);
  const auto apart = score_questions<Gpt2, PlainAccess>(model, all);
  for (std::size_t q = 0; q < all.size(); ++q) {
    const auto values = expected[q].at("log_likelihoods").get<std::vector<double>>();
    for (std::size_t c = 0; c < values.size(); ++c) {
      CHECK(shared.questions[q].log_likelihoods[c] == doctest::Approx(values[c]).epsilon(1e-5));
      CHECK(apart.questions[q].log_likelihoods[c] == doctest::Approx(values[c]).epsilon(1e-5));
    }
  }
}

void check_greedy(Gpt2& model, const Json& expected) {
  for (const auto& g : expected) {
    GenerateOptions options{.max_new_tokens = g.at("max_new_tokens").get<std::int64_t>(),
                            .context = model.config.n_positions};
    if (!g.at("end_of_text").is_null()) options.end_of_text = g.at("end_of_text").get<std::int32_t>();
    for (const bool cache : {true, false}) {
      options.cache = cache;
      CHECK(generate(model, g.at("prompt").get<Tokens>(), options).tokens == g.at("tokens").get<Tokens>());
    }
  }
}

void check_texts(Gpt2& model, const Json& expected) {
  std::vector<Tokens> lines;
  for (const auto& text : expected) lines.push_back(text.at("ids").get<Tokens>());
  const auto scores = score_lines(model, lines, {.context = model.config.n_positions});
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const auto values = expected[i].at("log_probabilities").get<std::vector<double>>();
    for (std::size_t t = 0; t < values.size(); ++t)
      CHECK(scores[i].at(t + 1).value() == doctest::Approx(values[t]).epsilon(1e-5));
    const Sample sample{lines[i], 1, 0};
    CHECK(score_samples(model, std::span(&sample, 1)).scores.perplexity() ==
          doctest::Approx(expected[i].at("perplexity").get<double>()).epsilon(2e-5));
  }
}

}  // namespace

TEST_CASE("Evaluation: choices, greedy continuations and perplexity equal Hugging Face's") {
  const auto golden = read_json(support::golden("evaluation.json"));
  REQUIRE(golden.size() == 3);
  for (const auto& expected : golden) {
    INFO(expected.at("model").get<std::string>());
    auto model = golden_model(expected.at("model").text());
    check_questions(model, expected.at("questions"));
    check_greedy(model, expected.at("greedy"));
    check_texts(model, expected.at("texts"));
  }
}

}  // namespace evaluation_golden_test
