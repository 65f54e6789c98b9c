#include "offsite/data/load_tokenizer.hpp"

#include "data/json_patch.hpp"
#include "support/test.hpp"

namespace load_tokenizer_test {

namespace {

using offsite::ArgumentError;
using offsite::Json;
using offsite::ProtocolError;

Json parsed(std::string_view text) { return offsite::parse_json(text, "a text of the test"); }

/// A tokenizer.json of the three tokens a, b and ab.
Json small_file() {
  return parsed(R"({
    "added_tokens": [], "normalizer": null, "post_processor": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}})");
}

/// A folder with the given files.
struct Folder : support::TemporaryFolder {
  Folder(std::initializer_list<std::pair<std::string_view, Json>> files) {
    for (const auto& [name, content] : files) add(name, content.dump());
  }
  void add(std::string_view name, std::string_view text) const { support::write_file(*this / name, text); }
};

std::string refusal(const Json& tokenizer_json) {
  const Folder folder{{"tokenizer.json", tokenizer_json}};
  return support::message_of<ProtocolError>([&] { (void)offsite::load_tokenizer(folder.path()); });
}

std::string refusal_after(const char* patch) { return refusal(merge_patched(small_file(), parsed(patch))); }

bool says(const std::string& message, std::string_view part) {
  INFO(message);
  const bool found = message.find(part) != message.npos;
  CHECK(found);
  return found;
}

}  // namespace

TEST_CASE("load_tokenizer: tokenizer.json comes before vocab.json, and that before encoder.json") {
  const Folder folder{{"encoder.json", parsed(R"({"a": 0})")}};
  folder.add("vocab.bpe", "#version: 0.2\n");
  CHECK(offsite::load_tokenizer(folder.path()).vocabulary_size() == 1);
  folder.add("vocab.json", R"({"a": 0, "b": 1})");
  folder.add("merges.txt", "");
  CHECK(offsite::load_tokenizer(folder.path()).vocabulary_size() == 2);
  folder.add("tokenizer.json", small_file().dump());
  CHECK(offsite::load_tokenizer(folder.path()).vocabulary_size() == 3);
  CHECK(offsite::tokenizer_files(folder.path()).size() == 5);
}

TEST_CASE("load_tokenizer: a folder without a whole tokenizer is refused") {
  const Folder folder{};
  const auto message = [&] {
    return support::message_of<ArgumentError>([&] { (void)offsite::load_tokenizer(folder.path()); });
  };
  says(message(), "holds no tokenizer: neither tokenizer.json, nor");
  folder.add("vocab.json", R"({"a": 0})");
  says(message(), "holds vocab.json, but not merges.txt");
  CHECK_THROWS_AS((void)offsite::load_tokenizer(folder / "absent"), ArgumentError);
}

TEST_CASE("load_tokenizer: begin and end token, from the first file that names one") {
  Folder folder{{"tokenizer.json", small_file()}};
  const auto load = [&] { return offsite::load_tokenizer(folder.path()); };
  CHECK(load().eos_id() == std::nullopt);
  folder.add("config.json", R"({"eos_token_id": [1, 2], "bos_token_id": 50256})");
  CHECK(load().eos_id() == 1);
  CHECK(load().bos_id() == std::nullopt);  // GPT-2's default in a small model's configuration
  folder.add("special_tokens_map.json", R"({"eos_token": "ab", "bos_token": {"content": "b"}})");
  CHECK(load().eos_id() == 2);
  CHECK(load().bos_id() == 1);
  folder.add("tokenizer_config.json",
             R"({"eos_token": {"content": "a"}, "bos_token": null, "add_bos_token": true})");
  CHECK(load().eos_id() == 0);
  CHECK(load().bos_id() == 1);
  CHECK(load().adds_bos());
  folder.add("tokenizer_config.json", R"({"eos_token": "</s>"})");
  says(support::message_of<ProtocolError>(load), R"(eos_token is "</s>", which is not in the vocabulary)");
}

TEST_CASE("load_tokenizer: <|endoftext|> is begin and end where nothing says so") {
  const Folder folder{{"vocab.json", parsed(R"({"a": 0, "<|endoftext|>": 1})")}};
  folder.add("merges.txt", "#version: 0.2\n");
  CHECK(offsite::load_tokenizer(folder.path()).eos_id() == 1);
  CHECK(offsite::load_tokenizer(folder.path()).bos_id() == 1);
  CHECK_FALSE(offsite::load_tokenizer(folder.path()).adds_bos());
}

TEST_CASE("load_tokenizer: a template that begins with a token puts it before the text") {
  auto file = small_file();
  file["post_processor"] = parsed(R"({"type": "Sequence", "processors": [{"type": "ByteLevel"},
    {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "b"}}, {"Sequence": {"id": "A"}}],
     "special_tokens": {"b": {"id": "b", "ids": [1], "tokens": ["b"]}}}]})");
  const Folder folder{{"tokenizer.json", file}};
  CHECK(offsite::load_tokenizer(folder.path()).adds_bos());
  CHECK(offsite::load_tokenizer(folder.path()).bos_id() == 1);
  CHECK(offsite::load_tokenizer(folder.path()).encode("a") == std::vector<std::int32_t>{0});
  folder.add("tokenizer_config.json", R"({"add_bos_token": false})");
  CHECK_FALSE(offsite::load_tokenizer(folder.path()).adds_bos());

  file["post_processor"]["processors"][1]["special_tokens"]["b"]["ids"] = Json::array({7});
  says(refusal(file), "begin token has the id 7, but there are 3 tokens");
  file["post_processor"]["processors"][1]["special_tokens"]["b"]["ids"] = Json::array();
  says(refusal(file), "more or less than one token");
}

TEST_CASE("load_tokenizer: tokenizer_config.json's add_prefix_space wins") {
  auto file = small_file();
  file["model"]["vocab"]["\u0120"] = 3;
  const Folder folder{{"tokenizer.json", file}};
  CHECK(offsite::load_tokenizer(folder.path()).encode("a") == std::vector<std::int32_t>{0});
  folder.add("tokenizer_config.json", R"({"add_prefix_space": true})");
  CHECK(offsite::load_tokenizer(folder.path()).encode("a") == std::vector<std::int32_t>{3, 0});
}

TEST_CASE("load_tokenizer: tokens of added_tokens.json and added_tokens_decoder have ids, but stay text") {
  const Folder folder{{"vocab.json", parsed(R"({"a": 0, "<": 1, ">": 2})")},
                      {"added_tokens.json", parsed(R"({"<a>": 3})")},
                      {"tokenizer_config.json",
                       parsed(R"({"added_tokens_decoder": {"4": {"content": "  "}}, "eos_token": "<a>"})")}};
  folder.add("merges.txt", "#version: 0.2\n\n");
  const auto tokenizer = offsite::load_tokenizer(folder.path());
  CHECK(tokenizer.vocabulary_size() == 5);
  CHECK(tokenizer.eos_id() == 3);
  CHECK(tokenizer.encode("<a>") == std::vector<std::int32_t>{1, 0, 2});
  CHECK(tokenizer.decode(std::vector<std::int32_t>{3, 4, 0}) == "<a>  a");
}

TEST_CASE("load_tokenizer: other kinds of tokenizer are named, with what is supported") {
  says(refusal_after(R"({"model": {"type": "Unigram"}})"),
       R"(the model "Unigram" is not supported: supported are)");
  says(refusal_after(R"({"normalizer": {"type": "NFKC"}})"), R"(the normalizer "NFKC" is not supported)");
  says(refusal_after(
           R"({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Strip"}]}})"),
       R"(the normalizer "Strip" is not supported)");
  says(refusal_after(R"({"normalizer": {"type": "Replace", "pattern": {"Regex": "a+"}, "content": "b"}})"),
       "only a String is supported there");
  says(
      refusal_after(R"({"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "bbbbb"}})"),
      "texts grow too much");
  says(refusal_after(R"({"normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "b"}})"),
       "String is");
  says(refusal_after(R"({"pre_tokenizer": {"type": "Whitespace"}})"),
       R"(the pre_tokenizer "Whitespace" is not)");
  says(refusal_after(R"({"pre_tokenizer": null})"), R"(decoder without the same pre_tokenizer "ByteLevel")");
  says(refusal_after(R"({"pre_tokenizer": {"type": "Metaspace", "replacement": "▁"}})"), "decoder without");
  says(refusal_after(R"({"pre_tokenizer": {"type": "Metaspace", "replacement": "ab"}})"),
       "one other character");
  says(refusal_after(R"({"pre_tokenizer": {"type": "Sequence", "pretokenizers":
                          [{"type": "Split", "pattern": {"Regex": "[a-z]+"}, "behavior": "Isolated"},
                           {"type": "ByteLevel"}]}})"),
       R"(the regular expression "[a-z]+", but only those of)");
  says(refusal_after(R"({"pre_tokenizer": {"type": "Sequence", "pretokenizers":
                          [{"type": "Split", "pattern": {"String": "a"}, "behavior": "Odd"}]}})"),
       R"(the behavior "Odd")");
  says(refusal_after(R"({"pre_tokenizer": {"type": "Sequence", "pretokenizers":
                          [{"type": "ByteLevel"}, {"type": "Digits"}]}})"),
       R"("Digits" comes after ByteLevel)");
  says(refusal_after(R"({"decoder": {"type": "WordPiece"}})"), R"(the decoder "WordPiece" is not)");
  says(refusal_after(
           R"({"pre_tokenizer": null, "decoder": {"type": "Strip", "content": " ", "start": 1, "stop": 0}})"),
       "Strip is supported only after Fuse");
  says(refusal_after(R"({"pre_tokenizer": null, "decoder": null})"), "has no decoder");
  says(refusal_after(R"({"post_processor": {"type": "BertProcessing"}})"),
       R"("BertProcessing" is not supported)");
  says(refusal_after(R"({"model": {"byte_fallback": true}})"), "model.byte_fallback");
  says(refusal_after(R"({"model": {"dropout": 0.1}})"), "model.dropout");
}

TEST_CASE("load_tokenizer: broken vocabularies and merges are refused by file and field") {
  says(refusal_after(R"({"model": {"vocab": {"ab": 1}}})"), R"("ab" and "b" have the same id 1)");
  says(refusal_after(R"({"model": {"vocab": {"ab": 3}}})"),
       R"("ab" has the id 3, but 3 tokens have the ids 0 to 2)");
  says(refusal_after(R"({"model": {"vocab": {"ab": 2000000000}}})"), "has the id 2000000000, but 3 tokens");
  for (const char* id : {"-1", "2147483648", "18446744073709551615", "1.5", "\"2\"", "[]", "true"})
    says(refusal_after(fmt::format(R"({{"model": {{"vocab": {{"ab": {}}}}}}})", id).c_str()),
         "a token id is an integer from 0");
  says(refusal_after(R"({"model": {"vocab": null}})"), "model.vocab is not an object");
  says(refusal_after(R"({"model": {"vocab": [1]}})"), "model.vocab is not an object");
  says(refusal_after(R"({"model": {"merges": {}}})"), "model.merges is not a list");
  says(refusal_after(R"({"model": {"merges": ["a b", "a c"]}})"),
       R"(model.merges entry 1: "c" is not in the vocabulary)");
  says(refusal_after(R"({"model": {"merges": ["b a"]}})"), R"("ba" is not in the vocabulary)");
  for (const char* rule : {"\"ab\"", "\"a b b\"", "\" b\"", "\"a \"", "[\"a\"]", "7", "[\"a\", 1]"})
    says(refusal_after(fmt::format(R"({{"model": {{"merges": [{}]}}}})", rule).c_str()),
         "model.merges entry 0");
  says(refusal_after(R"({"added_tokens": [{"id": 2, "content": "b"}]})"),
       R"(the added token "b" has the id 2, but 1)");
  says(refusal_after(R"({"added_tokens": [{"id": 2, "content": "x"}]})"), "have the same id 2");
  says(refusal_after(R"({"added_tokens": [{"id": 3, "content": ""}]})"), "has no text");
  says(refusal_after(R"({"added_tokens": [{"id": 3}]})"), "added_tokens entry 0 has no content");
  says(refusal_after(R"({"added_tokens": [{"id": 3, "content": "x", "lstrip": 1}]})"),
       "lstrip is neither true nor false");
  says(refusal(Json::array()), "is not a JSON object");

  const Folder folder{{"vocab.json", parsed(R"({"a": 0, "b": 1})")}};
  const auto message = [&] {
    return support::message_of<ProtocolError>([&] { (void)offsite::load_tokenizer(folder.path()); });
  };
  folder.add("merges.txt", "#version: 0.2\r\na b\r\n");
  says(message(), R"(merges.txt: line 2: "ab" is not in the vocabulary)");
  folder.add("merges.txt", "#version: 0.2\n\xff b\n");
  says(message(), "merges.txt: line 2 is not UTF-8");
  folder.add("merges.txt", "#version: 0.2\n\na b\n");
  says(message(), "merges.txt: line 2: a merge is two tokens");
  folder.add("vocab.json", "{\"\xff\": 0}");
  says(message(), "vocab.json is not valid JSON");
}

TEST_CASE("load_tokenizer: OPT's begin token comes before each text, where no file says otherwise") {
  const Folder folder{
      {"vocab.json", parsed(R"({"<s>": 0, "a": 1, "</s>": 2})")},
      {"config.json", parsed(R"({"model_type": "opt", "bos_token_id": 2, "eos_token_id": 2})")}};
  folder.add("merges.txt", "#version: 0.2\n");
  CHECK(offsite::load_tokenizer(folder.path()).adds_bos());
  CHECK(offsite::load_tokenizer(folder.path()).bos_id() == 2);
  folder.add("tokenizer_config.json", R"({"add_bos_token": false})");
  CHECK_FALSE(offsite::load_tokenizer(folder.path()).adds_bos());
}

}  // namespace load_tokenizer_test
