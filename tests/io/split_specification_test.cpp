#include "offsite/io/split_specification.hpp"

#include <functional>

#include "support/test.hpp"

namespace split_specification_test {

using namespace offsite;

namespace {

SplitSpecification example() {
  SplitSpecification split;
  split.model_type = "gpt2";
  split.config = Json::object({{"model_type", "gpt2"}, {"n_layer", 12}, {"dtype", "float32"}});
  split.plan = {12, {0, 11}, {2, 5, 8}};
  split.tokenizer_sha256 = std::string(64, 'a');
  split.tensors["transformer.h.0.ln_1.bias"] = {Dtype::kF32, {8}, std::string(64, '0'), true};
  split.tensors["transformer.wte.weight"] = {Dtype::kBF16, {11, 8}, std::string(64, 'b'), false};
  return split;
}

/// What reading says after `change` was made to the JSON.
std::string refusal(const std::function<void(Json&)>& change) {
  auto json = example().to_json();
  change(json);
  return support::message_of<ProtocolError>([&] { (void)SplitSpecification::from_json(json, "S"); });
}

/// How an example with `change` differs from the example.
std::string difference(const std::function<void(SplitSpecification&)>& change) {
  auto other = example();
  change(other);
  CHECK(explain_difference(other, other).empty());
  return explain_difference(example(), other);
}

}  // namespace

TEST_CASE("SplitSpecification: JSON and back gives the same") {
  const auto split = example();
  const auto text = split.to_json().dump();
  CHECK(SplitSpecification::from_json(parse_json(text, "S"), "S") == split);
  auto none = split;
  none.tokenizer_sha256.clear();
  none.dtype = "bfloat16";
  none.tensors.clear();
  CHECK(SplitSpecification::from_json(none.to_json(), "S") == none);
  CHECK(explain_difference(split, split).empty());
}

TEST_CASE("SplitSpecification: every field is checked, and the sentence names it") {
  CHECK(refusal([](auto& j) { j = Json::array(); }) == "S is a JSON array, but it must be an object");
  CHECK(refusal([](auto& j) { j["format_version"] = 2; }) ==
        "S is of format version 2, but this reads version 1");
  for (const auto* name : {"format_version", "model_type", "config", "blocks", "adapter_policy", "dtype",
                           "tokenizer_sha256", "tensors"})
    CHECK(refusal([&](auto& j) { j.erase(name); }) == fmt::format("S lacks the field '{}'", name));
  CHECK(refusal([](auto& j) { j["compression"] = "rank"; }) ==
        "S holds the field 'compression', which this version does not know");
  CHECK(refusal([](auto& j) { j["model_type"] = 7; }) == "'model_type' of S is 7, but it must be a text");
  CHECK(refusal([](auto& j) {
          j["config"] = Json::array({1, 2});
        }) == "'config' of S is [1,2], but it must be an object");
  CHECK(refusal([](auto& j) { j["dtype"] = "int8"; }) ==
        "'dtype' of S is \"int8\", but it must be auto, float32, float16, bfloat16 or float64");
  CHECK(refusal([](auto& j) {
          j["tokenizer_sha256"] = std::string(64, 'A');
        }).ends_with("but it must be a SHA-256 of 64 lower-case hexadecimal digits"));
  CHECK(refusal([](auto& j) { j["tensors"] = "x"; }) == "'tensors' of S is \"x\", but it must be an object");
}

TEST_CASE("SplitSpecification: a block map that no model can have is refused") {
  const auto blocks = [](const char* name, Json value) {
    return refusal([&](auto& j) { j["blocks"][name] = value; });
  };
  CHECK(blocks("depth", 0) == "'depth' of 'blocks' of S is 0, but it must be an integer from 1 to 100000");
  CHECK(blocks("depth", 1e18).ends_with("but it must be an integer from 1 to 100000"));
  CHECK(blocks("depth", std::uint64_t{1} << 63).ends_with("but it must be an integer from 1 to 100000"));
  CHECK(blocks("adapters", Json::array({0, 12})) ==
        "'adapters' of 'blocks' of S is [0,12], but it must be strictly ascending numbers of 12 blocks");
  CHECK(blocks("adapters", Json::array({-1})).ends_with("strictly ascending numbers of 12 blocks"));
  CHECK(blocks("adapters", Json::array({3, 3})).ends_with("strictly ascending numbers of 12 blocks"));
  CHECK(blocks("adapters", Json::array({0.5})).ends_with("but it must be a list of integers"));
  CHECK(blocks("emulator", Json::array()).ends_with("but it must be a list of at least one block"));
  CHECK(blocks("emulator", Json::array({0, 5})) ==
        "'blocks' of S names block 0 both as adapter and as part of the emulator");
  CHECK(blocks("more", 1) == "'blocks' of S holds the field 'more', which this version does not know");
}

TEST_CASE("SplitSpecification: a tensor's record is checked") {
  const auto record = [](const char* name, Json value) {
    return refusal([&](auto& j) { j["tensors"]["transformer.wte.weight"][name] = value; });
  };
  const std::string of = " of tensor 'transformer.wte.weight' of S is ";
  CHECK(record("dtype", "I64") == "'dtype'" + of + "\"I64\", but it must be F32, F16, BF16 or F64");
  CHECK(record("shape", Json::array({-1, 8})) == "'shape'" + of + "[-1,8], but it must be a shape");
  CHECK(record("shape", Json::array({INT64_MAX, 8})).ends_with("but it must be a shape"));
  CHECK(record("shape", "x").ends_with("but it must be a list of integers"));
  CHECK(record("sha256", "../../etc/passwd")
            .ends_with("but it must be a SHA-256 of 64 lower-case hexadecimal digits"));
  CHECK(record("travels", 1) == "'travels'" + of + "1, but it must be true or false");
}

TEST_CASE("SplitSpecification: a broken or deep file gives one sentence") {
  const support::TemporaryFolder folder;
  const auto path = folder / "split.json";
  const auto read = [&] { (void)SplitSpecification::read(path); };
  CHECK(support::message_of<ArgumentError>(read) ==
        "cannot read " + path.string() + ": No such file or directory");
  support::write_file(path, "{\"format_version\": 1");
  CHECK(support::message_of<ProtocolError>(read).starts_with(path.string() + " is not valid JSON: "));
  support::write_file(path, std::string(100'000, '['));
  CHECK(support::message_of<ProtocolError>(read) ==
        path.string() + " is refused: it nests deeper than 128 levels");
}

TEST_CASE("SplitSpecification: mutated files are refused or read, and never anything else") {
  const auto text = example().to_json().dump();
  std::uint64_t state = 1;
  int refused = 0;
  for (int round = 0; round < 3000; ++round) {
    auto mutated = text;
    for (int i = 0; i < 1 + round % 3; ++i) {
      state = state * 6364136223846793005ULL + 1442695040888963407ULL;
      mutated[(state >> 33) % mutated.size()] = static_cast<char>(state >> 24);
    }
    try {
      const auto split = SplitSpecification::from_json(parse_json(mutated, "S"), "S");
      (void)explain_difference(example(), split);
    } catch (const ProtocolError&) {
      ++refused;
    }
  }
  CHECK(refused > 1000);
}

TEST_CASE("explain_difference: names the field and both values") {
  CHECK(difference([](auto& s) { s.model_type = "opt"; }) ==
        "the model type is 'opt', but 'gpt2' was expected");
  CHECK(difference([](auto& s) { s.plan.depth = 24; }) == "the number of blocks is 24, but 12 was expected");
  CHECK(difference([](auto& s) { s.config["n_embd"] = 8; }) ==
        "'n_embd' of the configuration is 8, but absent was expected");
  CHECK(difference([](auto& s) { s.config["dtype"] = "float16"; }) ==
        "'dtype' of the configuration is \"float16\", but \"float32\" was expected");
  CHECK(difference([](auto& s) { s.config["transformers_version"] = "5"; }).empty());
  CHECK(difference([](auto& s) {
          s.plan.adapters = {0, 10};
        }) == "the list of adapter blocks is [0,10], but [0,11] was expected");
  CHECK(difference([](auto& s) { s.plan.emulator = {2}; }) ==
        "the emulator's list of blocks is [2], but [2,5,8] was expected");
  CHECK(difference([](auto& s) { s.adapter_policy = "lora"; }) ==
        "the adapter policy is 'lora', but 'whole_blocks' was expected");
  CHECK(difference([](auto& s) { s.dtype = "bfloat16"; }) ==
        "the dtype is 'bfloat16', but 'auto' was expected");
  CHECK(difference([](auto& s) { s.tokenizer_sha256.clear(); }) ==
        "the tokenizer's SHA-256 is absent, but " + std::string(64, 'a') + " was expected");
  const std::string wte = "transformer.wte.weight";
  CHECK(difference([&](auto& s) { s.tensors.erase(wte); }) == "tensor 'transformer.wte.weight' is missing");
  CHECK(difference([&](auto& s) { s.tensors["x"] = {}; }) == "tensor 'x' was not expected");
  CHECK(difference([&](auto& s) {
          s.tensors[wte].shape = {12, 8};
        }) == "tensor 'transformer.wte.weight' has shape [12, 8], but [11, 8] was expected");
  CHECK(difference([&](auto& s) { s.tensors[wte].dtype = Dtype::kF16; }) ==
        "tensor 'transformer.wte.weight' has type F16, but BF16 was expected");
  CHECK(difference([&](auto& s) { s.tensors[wte].sha256 = std::string(64, 'c'); }) ==
        "tensor 'transformer.wte.weight' has SHA-256 " + std::string(64, 'c') + ", but " +
            std::string(64, 'b') + " was expected");
  CHECK(difference([&](auto& s) { s.tensors[wte].travels = true; }) ==
        "tensor 'transformer.wte.weight' is in the offer, but the opposite was expected");
}

}  // namespace split_specification_test
