#include "data/json_patch.hpp"
#include "offsite/data/load_tokenizer.hpp"
#include "support/test.hpp"

namespace tokenizer_shapes_test {

namespace {

using Ids = std::vector<std::int32_t>;

}  // namespace

TEST_CASE("load_tokenizer: ids and texts of Hugging Face's tokenizers for every shape of tokenizer.json") {
  const auto shapes = offsite::read_json(support::golden("tokenizer/shapes.json"));
  CHECK(shapes.size() == 19);
  for (const auto& shape : shapes) {
    const auto name = shape.at("name").text();
    CAPTURE(name);
    const auto base = offsite::read_json(support::golden("tokenizer") / shape.at("base").text());
    const support::TemporaryFolder folder;
    support::write_file(folder / "tokenizer.json", merge_patched(base, shape.at("patch")).dump());
    const auto tokenizer = offsite::load_tokenizer(folder.path());
    CHECK(shape.at("cases").size() == 110);
    for (const auto& entry : shape.at("cases")) {
      const auto text = entry[0].text();
      CAPTURE(text);
      const Ids ids = entry[1].get<Ids>();
      CHECK(tokenizer.encode(text) == ids);
      if (!entry[2].is_null()) CHECK(tokenizer.decode(ids) == entry[2].text());
    }
  }
}

TEST_CASE("BpeTokenizer: by character with bytes to fall back on, any bytes come back") {
  const auto base = offsite::read_json(support::golden("tokenizer/character.json"));
  const auto shapes = offsite::read_json(support::golden("tokenizer/shapes.json"));
  for (const auto& shape : shapes) {
    if (shape.at("name").text() != "llama2") continue;
    const support::TemporaryFolder folder;
    support::write_file(folder / "tokenizer.json", merge_patched(base, shape.at("patch")).dump());
    const auto tokenizer = offsite::load_tokenizer(folder.path());
    for (const std::string& text : std::vector<std::string>{"\xff", "a \xe4\xb8 b", "\xf0\x9f\xa6\x99\xf0",
                                                            "", " ", "  x", std::string("\0a", 2)})
      CHECK(tokenizer.decode(tokenizer.encode(text)) == text);
    // Continuing a text, ids keep the space that begins a text's first word.
    const Ids ids = tokenizer.encode("the bridge");
    std::string continued;
    for (const auto id : ids) continued += tokenizer.bytes_of(id);
    CHECK(continued == " the bridge");
    CHECK(tokenizer.decode(ids) == "the bridge");
  }
}

TEST_CASE("split patterns: Digits knows numeric characters that \\p{N} does not yet") {
  const std::string text = "\U00011de1";
  CHECK_FALSE(offsite::next_stretch(offsite::SplitPattern::kNumbers, text, 0).is_match);
  CHECK_FALSE(offsite::next_stretch(offsite::SplitPattern::kNumber, text, 0).is_match);
  CHECK(offsite::next_stretch(offsite::SplitPattern::kDigits, text, 0).is_match);
  CHECK(offsite::next_stretch(offsite::SplitPattern::kDigit, text + text, 0).end == text.size());
}

}  // namespace tokenizer_shapes_test
