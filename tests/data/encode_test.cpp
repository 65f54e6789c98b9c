#include "offsite/data/encode.hpp"

#include <cstdint>
#include <string>
#include <vector>

#include "data/sentence_piece_model.hpp"
#include "data/tiny_tokenizer.hpp"
#include "offsite/core/random.hpp"
#include "offsite/data/load_tokenizer.hpp"
#include "offsite/io/json.hpp"
#include "support/test.hpp"

namespace encode_test {

using namespace offsite;

namespace {

const TinyTokenizer tokenizer;

Example question(std::string prompt, std::vector<std::string> choices, std::int64_t answer) {
  Example example;
  example.prompt = std::move(prompt);
  example.choices = std::move(choices);
  example.answer = answer;
  return example;
}

Example pair(std::string prompt, std::string completion) {
  Example example;
  example.prompt = std::move(prompt);
  example.completion = std::move(completion);
  return example;
}

std::string seen(const Sample& sample) {
  return tokenizer.decode(std::span(sample.tokens).first(static_cast<std::size_t>(sample.scored_from)));
}

std::string scored(const Sample& sample) {
  return tokenizer.decode(std::span(sample.tokens).subspan(static_cast<std::size_t>(sample.scored_from)));
}

Sample train(const Example& example, const EncodeOptions& options = {},
             const TinyTokenizer& with = tokenizer) {
  return encode_for_training({&example, 1}, Scoring::kMultipleChoice, with, options).samples.at(0);
}

Question ask(const Example& example, const EncodeOptions& options = {},
             const TinyTokenizer& with = tokenizer) {
  return encode_questions({&example, 1}, with, options).questions.at(0);
}

std::vector<Example> many_examples(std::int64_t count) {
  RandomStream random(3);
  std::vector<Example> examples;
  for (std::int64_t i = 0; i < count; ++i) {
    examples.push_back(question(std::string(random.below(30), 'p'), {"a", "bb", "c d"}, i % 3));
    examples.back().number = i;
  }
  return examples;
}

}  // namespace

TEST_CASE("encode_for_training: a space, the answer and the end of text follow the prompt") {
  const auto sample = train(question("Q:", {"no", "yes"}, 1));
  CHECK(seen(sample) == "Q:");
  CHECK(scored(sample) == " yes<eos>");
  CHECK(sample.scored() == 4);  // " y", "e", "s", end: the space is part of the answer's first token
  CHECK(scored(train(pair("Q:\n", "yes"))) == "yes<eos>");
}

TEST_CASE("encode_for_training: a token that the prompt's end shares with the answer is scored") {
  const auto spaced = train(question("Q: ", {"a"}, 0));  // "Q:", then two spaces, then "a"
  CHECK(spaced.tokens == std::vector<std::int32_t>{'Q', ':', 256 + ' ', 'a', 512});
  CHECK(spaced.scored_from == 2);
  const auto joined = train(pair("Q: ", "yes"));
  CHECK(scored(joined) == " yes<eos>");
  CHECK(joined.scored() == 4);
}

TEST_CASE(
    "encode_for_training: the ids are those that scoring gives, by tokenizers that put a space first too") {
  const support::TemporaryFolder folder;
  support::write_file(folder / "tokenizer.json", llama_tokenizer_json(small_pieces()).dump());
  support::write_file(folder / "tokenizer_config.json",
                      R"({"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": true})");
  const auto llama = load_tokenizer(folder.path());
  const std::string answer = "world hello";
  REQUIRE(llama.encode(" " + answer).size() ==
          llama.encode(answer).size() + 1);  // a space of its own makes one more
  const std::vector<Example> examples{question("hello:", {"no", answer}, 1),
                                      question("hello world\nhello:", {"d"}, 0)};
  const auto training = encode_for_training(examples, Scoring::kMultipleChoice, llama).samples;
  const auto asked = encode_questions(examples, llama).questions;
  for (std::size_t i = 0; i < examples.size(); ++i) {
    auto expected = asked[i].choices[static_cast<std::size_t>(examples[i].answer)];
    expected.tokens.push_back(*llama.eos_id());
    CHECK(training[i] == expected);
  }
  const std::vector<Example> completed{pair("hello", " world"), pair("hello\n", "world")};
  const auto continued = encode_for_training(completed, Scoring::kCompletion, llama).samples;
  const auto losses = encode_for_loss(completed, Scoring::kCompletion, llama).samples;
  for (std::size_t i = 0; i < completed.size(); ++i) {
    const auto& ids = continued[i].tokens;
    CHECK(std::vector(ids.begin(), ids.end() - 1) == losses[i].tokens);
  }
  CHECK(continued[0].scored_from == losses[0].scored_from);
  // Scoring counts the white space between them, as the harness does; training starts where the prompt ends.
  CHECK(continued[1].scored_from == losses[1].scored_from + 1);
}

TEST_CASE("encode: the begin token stands before the prompt if asked for") {
  const auto example = question("Q:", {"a", "b"}, 0);
  TinyTokenizer adding;
  adding.adds = true;
  CHECK(seen(train(example)) == "Q:");
  CHECK(seen(train(example, {.bos = Bos::kYes})) == "<bos>Q:");
  CHECK(seen(train(example, {}, adding)) == "<bos>Q:");
  CHECK(seen(train(example, {.bos = Bos::kNo}, adding)) == "Q:");
  CHECK(seen(ask(example, {}, adding).choices[1]) == "<bos>Q:");
  CHECK(ask(example, {}, adding).shared == 3);
  adding.bos.reset();
  CHECK_THROWS_AS((void)train(example, {}, adding), ArgumentError);
  CHECK_THROWS_AS((void)train(example, {.bos = Bos::kYes}, adding), ArgumentError);
  CHECK_NOTHROW((void)train(example, {.bos = Bos::kNo}, adding));
  CHECK(bos_named("auto") == Bos::kAuto);
  CHECK(bos_named("no") == Bos::kNo);
  CHECK(bos_named("yes") == Bos::kYes);
  CHECK_THROWS_AS((void)bos_named("maybe"), ArgumentError);
}

TEST_CASE("encode: an empty prompt is replaced by the prefix token, or costs the first token") {
  const auto example = question("", {"ab"}, 0);
  CHECK(seen(ask(example).choices[0]) == "<bos>");
  CHECK(scored(ask(example).choices[0]) == " ab");
  TinyTokenizer without;
  without.bos.reset();
  CHECK(seen(ask(example, {}, without).choices[0]) == "<eos>");
  CHECK(seen(train(example)) == "<bos>");
  CHECK(seen(ask(example, {.bos = Bos::kNo}).choices[0]) == " a");
  CHECK(scored(train(example, {.bos = Bos::kNo})) == "b<eos>");
  CHECK(support::message_of<ArgumentError>([&] { (void)ask(question("", {"a"}, 0), {.bos = Bos::kNo}); }) ==
        "row 1: the choice 'a' has no tokens that could be scored");
}

TEST_CASE("encode_for_training: a prompt that is too long loses its beginning, an answer never") {
  const std::vector<Example> examples{pair("0123456789", "abc"), pair("01", "abc"), pair("012", "abc")};
  const auto encoded = encode_for_training(examples, Scoring::kCompletion, tokenizer, {.max_length = 5});
  CHECK(encoded.shortened == 2);
  CHECK(seen(encoded.samples[0]) == "89");
  CHECK(scored(encoded.samples[0]) == "abc<eos>");
  CHECK(encoded.samples[0].rows() == 5);
  CHECK(seen(encoded.samples[1]) == "01");
  CHECK(seen(encoded.samples[2]) == "12");
  CHECK(train(examples[0], {.max_length = 4}).scored() == 4);
  auto example = pair("Q", "abc");
  example.number = 41;
  CHECK(support::message_of<ArgumentError>([&] { (void)train(example, {.max_length = 3}); }) ==
        "row 42: the answer with its end of text alone has 4 tokens, but max_length is 3 and answers are "
        "never cut");
  CHECK_THROWS_AS((void)train(example, {.max_length = 0}), ArgumentError);
}

TEST_CASE("encode_for_training: needs an end-of-text token") {
  TinyTokenizer without;
  without.eos.reset();
  CHECK_THROWS_AS((void)train(pair("a", "b"), {}, without), ArgumentError);
}

TEST_CASE("encode_questions: prompt and choice are encoded together and split at the prompt's own length") {
  auto example = question("Q:", {"été", "x"}, 1);
  example.number = 9;
  const auto asked = ask(example);
  REQUIRE(asked.choices.size() == 2);
  CHECK(seen(asked.choices[0]) == "Q:");
  CHECK(scored(asked.choices[0]) == " été");
  CHECK(scored(asked.choices[1]) == " x");
  CHECK(asked.characters == std::vector<std::int64_t>{3, 1});  // code points, without the joining space
  CHECK(asked.answer == 1);
  CHECK(asked.number == 9);
  CHECK(asked.choices[1].number == 9);
  CHECK(asked.shared == 2);
  // White space at the end of the prompt goes to the choice, as in the harness: "Q:" and "  x".
  const auto spaced = ask(question("Q: ", {"x"}, 0)).choices[0];
  CHECK(seen(spaced) == "Q:");
  CHECK(spaced.tokens == std::vector<std::int32_t>{'Q', ':', 256 + ' ', 'x'});
}

TEST_CASE("encode_questions: choices are cut by their own length, and share what they still have in common") {
  const auto example = question("0123456789", {"a", "bcd"}, 0);
  const auto encoded = encode_questions({&example, 1}, tokenizer, {.max_length = 5});
  CHECK(encoded.shortened == 1);
  const auto& asked = encoded.questions[0];
  CHECK(seen(asked.choices[0]) == "56789");
  CHECK(scored(asked.choices[0]) == " a");
  CHECK(seen(asked.choices[1]) == "789");
  CHECK(scored(asked.choices[1]) == " bcd");
  CHECK(asked.shared == 0);
  CHECK(ask(example).shared == 10);
  CHECK(ask(question("aaaaaaaaaa", {"x", "yy"}, 0), {.max_length = 5}).shared == 4);
  CHECK_THROWS_AS((void)ask(example, {.max_length = 2}), ArgumentError);
  CHECK_THROWS_AS((void)ask(pair("a", "b")), ArgumentError);
}

TEST_CASE("encode_for_loss: the completion without the end of text") {
  const std::vector<Example> examples{pair("Q:", " yes"), pair("0123456789", "x")};
  const auto encoded = encode_for_loss(examples, Scoring::kCompletion, tokenizer, {.max_length = 5});
  CHECK(seen(encoded.samples[0]) == "Q:");
  CHECK(scored(encoded.samples[0]) == " yes");
  CHECK(seen(encoded.samples[1]) == "56789");
  CHECK(encoded.shortened == 1);
}

TEST_CASE("encode: any number of workers gives the same samples and the same complaint") {
  auto examples = many_examples(997);
  const EncodeOptions alone{.max_length = 12};
  const auto samples = encode_for_training(examples, Scoring::kMultipleChoice, tokenizer, alone);
  const auto questions = encode_questions(examples, tokenizer, alone);
  CHECK(samples.shortened > 0);
  for (const std::int64_t workers : {1, 3, 16}) {
    const EncodeOptions options{.max_length = 12, .workers = workers};
    const auto again = encode_for_training(examples, Scoring::kMultipleChoice, tokenizer, options);
    CHECK((again.samples == samples.samples));
    CHECK(again.shortened == samples.shortened);
    const auto asked = encode_questions(examples, tokenizer, options);
    CHECK(asked.shortened == questions.shortened);
    for (std::size_t i = 0; i < examples.size(); ++i)
      CHECK((asked.questions[i].choices == questions.questions[i].choices));
  }
  for (std::size_t i = 0; i < examples.size(); ++i)
    CHECK(samples.samples[i].number == static_cast<std::int64_t>(i));
  for (const std::size_t bad : {300u, 500u, 900u}) examples[bad].choices.assign(3, std::string(40, 'x'));
  for (const std::int64_t workers : {0, 1, 7}) {
    const auto message = support::message_of<ArgumentError>(
        [&] { (void)encode_questions(examples, tokenizer, {.max_length = 12, .workers = workers}); });
    CHECK(message.starts_with("row 301: "));
  }
  CHECK_THROWS_AS((void)encode_questions(examples, tokenizer, {.workers = -1}), ArgumentError);
  CHECK(encode_questions({}, tokenizer, {.workers = 4}).questions.empty());
}

TEST_CASE("rolling_windows: are lm-evaluation-harness's") {
  const auto golden = parse_json(support::read_file(support::golden("prompts.json")), "prompts.json");
  for (const auto& one : golden.at("windows")) {
    std::vector<std::int32_t> document(one.at("length").get<std::size_t>());
    for (std::size_t i = 0; i < document.size(); ++i) document[i] = static_cast<std::int32_t>(i);
    const auto windows = rolling_windows(document, -1, one.at("max_length").get<std::int64_t>());
    CAPTURE(one.at("length").dump());
    CAPTURE(one.at("max_length").dump());
    REQUIRE(windows.size() == one.at("windows").size());
    for (std::size_t i = 0; i < windows.size(); ++i) {
      const auto& tokens = windows[i].tokens;
      CHECK(std::vector(tokens.begin(), tokens.end() - 1) ==
            one.at("windows")[i][0].get<std::vector<std::int32_t>>());
      CHECK(std::vector(tokens.begin() + windows[i].scored_from, tokens.end()) ==
            one.at("windows")[i][1].get<std::vector<std::int32_t>>());
      CHECK(windows[i].number == static_cast<std::int64_t>(i));
    }
  }
}

TEST_CASE("rolling_windows: without a prefix every token but the first is scored once") {
  for (std::int64_t size = 0; size < 30; ++size)
    for (std::int64_t max_length = 1; max_length < 32; ++max_length) {
      std::vector<std::int32_t> document(static_cast<std::size_t>(size)), scored_tokens;
      for (std::size_t i = 0; i < document.size(); ++i) document[i] = static_cast<std::int32_t>(i);
      for (const auto& window : rolling_windows(document, std::nullopt, max_length)) {
        CHECK(window.rows() <= max_length);
        CHECK(window.scored_from >= 1);
        CHECK((window.rows() == max_length || window.tokens.front() == 0));
        scored_tokens.insert(scored_tokens.end(), window.tokens.begin() + window.scored_from,
                             window.tokens.end());
      }
      REQUIRE(scored_tokens.size() == static_cast<std::size_t>(std::max<std::int64_t>(size - 1, 0)));
      for (std::size_t i = 0; i < scored_tokens.size(); ++i)
        CHECK(scored_tokens[i] == static_cast<std::int32_t>(i + 1));
    }
  CHECK_THROWS_AS((void)rolling_windows({}, std::nullopt, 0), ArgumentError);
}

TEST_CASE("encode: text becomes rolling windows, in training and in scoring alike") {
  const std::vector<Example> documents{pair("", "abcdefg"), pair("", "hi")};
  const auto encoded = encode_for_training(documents, Scoring::kText, tokenizer, {.max_length = 4});
  REQUIRE(encoded.samples.size() == 3);
  CHECK(seen(encoded.samples[0]) == "<bos>");
  CHECK(scored(encoded.samples[0]) == "abcd");
  CHECK(seen(encoded.samples[1]) == "cd");
  CHECK(scored(encoded.samples[1]) == "efg");
  CHECK(encoded.samples[2].number == 2);
  CHECK((encode_for_loss(documents, Scoring::kText, tokenizer, {.max_length = 4}).samples == encoded.samples));
  CHECK(seen(encode_for_loss(documents, Scoring::kText, tokenizer, {.bos = Bos::kNo}).samples[0]) == "a");
  const std::vector<Example> empty{pair("", "")};
  CHECK_THROWS_AS((void)encode_for_loss(empty, Scoring::kText, tokenizer), ArgumentError);
}

}  // namespace encode_test
