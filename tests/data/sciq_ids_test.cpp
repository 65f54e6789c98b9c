#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <vector>

#include "offsite/data/encode.hpp"
#include "offsite/data/load_tokenizer.hpp"
#include "offsite/data/sciq.hpp"
#include "offsite/io/json.hpp"
#include "support/test.hpp"

namespace sciq_ids_test {

using namespace offsite;

namespace {

/// As `encoded_digest` of tests/golden/make_prompts.py.
class IdsDigest {
 public:
  void add(const Sample& sample) {
    std::string text;
    for (const auto id : sample.tokens) text += fmt::format("{}{}", text.empty() ? "" : " ", id);
    for (const char c : text + fmt::format("|{};", sample.scored_from))
      state_ = (state_ ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  }
  [[nodiscard]] std::string text() const { return fmt::format("{:016x}", state_); }

 private:
  std::uint64_t state_ = 0xcbf29ce484222325u;
};

}  // namespace

TEST_CASE("encode: GPT-2's ids of SciQ are lm-evaluation-harness's, cut prompts too") {
  if (!support::have_data("sciq/test.json") || !support::have_data("tokenizers/gpt2/vocab.bpe")) return;
  const auto golden =
      parse_json(support::read_file(support::golden("prompts.json")), "prompts.json").at("encoded");
  const auto tokenizer = load_tokenizer(support::data("tokenizers/gpt2"));
  const auto examples = Sciq{}.read(support::data("sciq/test.json"));
  for (const std::int64_t max_length : {1024, 64}) {
    CAPTURE(max_length);
    const EncodeOptions options{.max_length = max_length, .bos = Bos::kNo, .workers = 1};
    const auto& wanted = golden.at(std::to_string(max_length));
    const auto encoded = encode_for_training(examples, Scoring::kMultipleChoice, tokenizer, options);
    IdsDigest training, questions;
    for (const auto& sample : encoded.samples) training.add(sample);
    CHECK(training.text() == wanted.at("training"));
    const auto asked = encode_questions(examples, tokenizer, options);
    for (const auto& question : asked.questions)
      for (const auto& choice : question.choices) questions.add(choice);
    CHECK(questions.text() == wanted.at("questions"));
    CHECK((max_length == 1024) == (asked.shortened == 0));
  }
}

}  // namespace sciq_ids_test
