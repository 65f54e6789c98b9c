#include "offsite/eval/generate.hpp"

#include "eval/models.hpp"
#include "support/test.hpp"  // last: see there
#include "trainer/own_model.hpp"

namespace generate_test {

using namespace offsite;
using namespace evaluation;

namespace {

/// Counts how many rows its blocks compute.
struct CountingAccess : BlockAccess<Gpt2> {
  inline static std::int64_t rows = 0;
  using BlockAccess<Gpt2>::forward;
  static at::Tensor forward(Gpt2Block& b, const at::Tensor& h, Cache& cache) {
    rows += h.size(0);
    return BlockAccess<Gpt2>::forward(b, h, cache);
  }
};

}  // namespace

TEST_CASE("generate: the same with a cache and by computing everything again") {
  std::mt19937 random(1);
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    auto model = small_model(seed);
    for (const int size : {1, 3, 10, 23}) {
      const auto prompt = random_tokens(random, size);
      GenerateOptions options{.max_new_tokens = 50, .context = 24};
      const auto cached = generate(model, prompt, options);
      CHECK(cached.stop == Stop::kContext);
      CHECK(static_cast<int>(cached.tokens.size()) == 24 - size);
      CHECK(cached.tokens == generate<Gpt2, PlainAccess>(model, prompt, options).tokens);
      options.cache = false;
      CHECK(cached.tokens == generate(model, prompt, options).tokens);
    }
  }
}

TEST_CASE("generate: every token is computed once where keys are cached") {
  auto model = small_model();
  CountingAccess::rows = 0;
  const auto made = generate<Gpt2, CountingAccess>(model, Tokens{1, 2, 3, 4}, {.max_new_tokens = 6});
  CHECK(made.tokens.size() == 6);
  CHECK(CountingAccess::rows == 3 * (4 + 5));  // the last token is not computed
}

TEST_CASE("generate: each token is the likeliest after those before it") {
  auto model = small_model();
  Tokens tokens{7, 3};
  const auto made = generate(model, tokens, {.max_new_tokens = 8, .context = 24});
  REQUIRE(made.tokens.size() == 8);
  for (const auto token : made.tokens) {
    std::int32_t best = 0;
    double best_value = -INFINITY;
    for (std::int32_t candidate = 0; candidate < 40; ++candidate) {
      auto longer = tokens;
      longer.push_back(candidate);
      const auto value = reference(model, longer, static_cast<std::int64_t>(tokens.size()))[0];
      if (value > best_value) {
        best = candidate;
        best_value = value;
      }
    }
    CHECK(token == best);
    tokens.push_back(token);
  }
}

TEST_CASE("generate: stops at the end of text, at the length and at the context's end") {
  auto model = small_model();
  const Tokens prompt{4, 9, 30};
  const auto whole = generate(model, prompt, {.max_new_tokens = 12, .context = 24});
  CHECK(whole.stop == Stop::kLength);
  CHECK(whole.text().size() == 12);

  Tokens told;
  GenerateOptions options{.max_new_tokens = 12, .context = 24, .end_of_text = whole.tokens[2]};
  options.on_token = [&](std::int32_t token) { told.push_back(token); };
  const auto ended = generate(model, prompt, options);
  const auto first =
      std::find(whole.tokens.begin(), whole.tokens.end(), whole.tokens[2]) - whole.tokens.begin();
  CHECK(ended.stop == Stop::kEndOfText);
  CHECK(ended.tokens == Tokens(whole.tokens.begin(), whole.tokens.begin() + first + 1));
  CHECK(static_cast<std::ptrdiff_t>(ended.text().size()) == first);
  CHECK(told == ended.tokens);

  CHECK(generate(model, prompt, {.max_new_tokens = 0}).tokens.empty());
  CHECK(generate(model, prompt, {.max_new_tokens = 9, .context = 3}).stop == Stop::kContext);
  CHECK(generate(model, prompt, {.max_new_tokens = 9, .context = 3}).tokens.empty());
  CHECK(generate(model, prompt, {.max_new_tokens = 2, .context = 5}).stop == Stop::kLength);
}

TEST_CASE("generate: a user's plain model takes part") {
  auto model = own::random_model(2, 3);
  const auto made = generate(model, Tokens{5}, {.max_new_tokens = 7});
  CHECK(made.tokens.size() == 7);
}

TEST_CASE("generate: ties go to the first token, NaN and bad prompts are refused") {
  auto model = small_model();
  const auto message = [&](const Tokens& prompt, const GenerateOptions& options = {}) {
    return support::message_of<ArgumentError>([&] { (void)generate(model, prompt, options); });
  };
  CHECK(message({}).starts_with("the prompt has no tokens"));
  CHECK(message({1, 2, 3}, {.context = 2}) == "the prompt has 3 tokens, but the model's context holds 2");
  CHECK(message({1}, {.max_new_tokens = -1}).starts_with("max_new_tokens is -1"));
  CHECK(message({1}, {.context = -1}).starts_with("context is -1"));
  CHECK(message({40}).find("40") != std::string::npos);
  model.head.norm->weight.zero_();
  model.head.norm->bias.zero_();
  CHECK(generate(model, Tokens{3}, {.max_new_tokens = 2}).tokens == Tokens{0, 0});
  model.head.norm->bias.fill_(NAN);
  CHECK_THROWS_AS((void)generate(model, Tokens{3}), NumericError);
}

}  // namespace generate_test
