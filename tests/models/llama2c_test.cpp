// A model of llama2.c, converted by examples/convert_llama2c.cpp, says what llama2.c says.
#include "../../examples/llama2c.hpp"

#include "offsite/data/load_tokenizer.hpp"
#include "offsite/eval/generate.hpp"
#include "offsite/io/model_folder.hpp"
#include "offsite/models/llama.hpp"
#include "support/test.hpp"

namespace llama2c_test {

using namespace offsite;

namespace {

// Writes numbers as llama2.c does: what the processor has in memory.
struct Writer {
  std::string bytes;
  template <class T>
  Writer& put(T value) {
    bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
};

// dim 4, inner 6, 1 block, 2 heads, 1 key head, 5 tokens, 8 positions; `more` floats than it takes
std::string tiny_model(std::int32_t vocabulary, int more = 0) {
  Writer w;
  for (const std::int32_t value : {4, 6, 1, 2, 1, vocabulary, 8}) w.put(value);
  const int block = 4 + 4 * 4 + 2 * 2 * 4 + 4 * 4 + 4 + 3 * 6 * 4;
  const int count = 5 * 4 + block + 4 + 8 * 2 + (vocabulary < 0 ? 5 * 4 : 0);
  for (int i = 0; i < count + more; ++i) w.put(static_cast<float>(i));
  return w.bytes;
}

}  // namespace

TEST_CASE("convert_llama2c: stories260K says what llama2.c says, greedily, from a cache and without one") {
  const std::string model_file = "models/stories260k/stories260K.bin",
                    tokenizer_file = "tokenizers/tinyllamas/tok512.bin";
  if (!support::have_data(model_file) || !support::have_data(tokenizer_file)) return;
  const support::TemporaryFolder folder;
  const auto size = llama2c::convert_model(support::data(model_file), folder.path());
  llama2c::convert_tokenizer(support::data(tokenizer_file), size, folder.path());
  auto model = load_model<Llama>(folder.path());
  const auto tokenizer = load_tokenizer(folder.path());
  REQUIRE(tokenizer.bos_id() == 1);
  const std::vector<std::int32_t> begin{1};
  auto expected =
      support::read_file(support::data("models/stories260k/stories260K_expected_greedy_200steps.txt"));
  while (expected.ends_with('\n')) expected.pop_back();
  for (const bool cache : {true, false}) {
    const auto result = generate(model, begin, {.max_new_tokens = 200, .context = 512, .cache = cache});
    CHECK(tokenizer.decode(result.tokens) == expected);
  }
  CHECK(tokenizer.decode(tokenizer.encode(expected)) == expected);
  CHECK(tokenizer.encode("Once upon a time").size() < 8);
}

TEST_CASE("convert_llama2c: a head of its own is read; neighbouring features are put apart") {
  const support::TemporaryFolder folder;
  support::write_file(folder / "tied.bin", tiny_model(5));
  support::write_file(folder / "untied.bin", tiny_model(-5));
  for (const bool tied : {true, false}) {
    const auto to = folder / (tied ? "tied" : "untied");
    std::filesystem::create_directories(to);
    CHECK(llama2c::convert_model(folder / (tied ? "tied.bin" : "untied.bin"), to) == 5);
    auto model = load_model<Llama>(to);
    CHECK(model.config.tie_word_embeddings == tied);
    CHECK(model.head.weight.defined() != tied);
    CHECK(model.config.window(0) == 0);
    const auto& q = model.blocks[0].attention.projection.q.weight;
    CHECK(q[0][0].item<float>() == 24);  // rows 0, 1 of a head of width 2 stay: a pair is a half each
    CHECK(q[1][0].item<float>() == 28);
  }
}

TEST_CASE("convert_llama2c: broken files give one sentence") {
  const support::TemporaryFolder folder;
  const auto refused = [&](const std::string& bytes) {
    support::write_file(folder / "model.bin", bytes);
    return support::message_of<ProtocolError>(
        [&] { (void)llama2c::convert_model(folder / "model.bin", folder.path()); });
  };
  CHECK(refused("").find("ends at byte 0, but 4 more were expected") != std::string::npos);
  CHECK(refused(tiny_model(0)).find("its header holds 0") != std::string::npos);
  CHECK(refused(tiny_model(1 << 20)).find("were expected at byte 28") != std::string::npos);
  CHECK(refused(tiny_model(INT32_MIN)).find("no model of llama2.c") != std::string::npos);
  CHECK(refused(tiny_model(5, -1)).find("were expected") != std::string::npos);
  CHECK(refused(tiny_model(5, 1)).find("goes on after the last tensor") != std::string::npos);
  auto heads = tiny_model(5);
  heads[12] = 3;
  CHECK(refused(heads).find("hidden_size is 4, which does not divide into num_attention_heads = 3 heads") !=
        std::string::npos);

  Writer pieces;
  pieces.put(std::int32_t{7}).put(0.0f).put(std::int32_t{-3});
  support::write_file(folder / "tokenizer.bin", pieces.bytes);
  const auto convert = [&] { llama2c::convert_tokenizer(folder / "tokenizer.bin", 512, folder.path()); };
  CHECK(support::message_of<ProtocolError>(convert).find("piece 0 has -3 bytes") != std::string::npos);
}

}  // namespace llama2c_test
