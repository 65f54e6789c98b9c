#include "offsite/data/sentence_piece.hpp"

#include <limits>

#include "data/sentence_piece_model.hpp"
#include "offsite/data/load_tokenizer.hpp"
#include "support/test.hpp"

namespace sentence_piece_test {

namespace {

using Ids = std::vector<std::int32_t>;

#ifdef OFFSITE_SENTENCEPIECE

struct ModelFolder : support::TemporaryFolder {
  explicit ModelFolder(std::string_view model) { support::write_file(*this / "tokenizer.model", model); }
  [[nodiscard]] offsite::AnyTokenizer load() const { return offsite::load_tokenizer(path()); }
  [[nodiscard]] std::string refusal() const {
    return support::message_of<offsite::ProtocolError>([&] { (void)load(); });
  }
};

bool says(const std::string& message, std::string_view part) {
  INFO(message);
  const bool found = message.find(part) != message.npos;
  CHECK(found);
  return found;
}

#endif

}  // namespace

#ifdef OFFSITE_SENTENCEPIECE

TEST_CASE("SentencePiece: a space before each text, bytes for what has no piece") {
  const ModelFolder folder(sentence_piece_model(small_pieces()));
  const auto tokenizer = folder.load();
  const auto id = [&](std::string_view piece) {
    const auto pieces = small_pieces();
    for (std::size_t i = 0; i < pieces.size(); ++i)
      if (pieces[i].text == piece) return static_cast<std::int32_t>(i);
    return -1;
  };
  CHECK(tokenizer.vocabulary_size() == 3 + 256 + 20);
  CHECK(tokenizer.encode("hello world") == Ids{id("\u2581hello"), id("\u2581wor"), id("ld")});
  CHECK(tokenizer.encode("x") == Ids{id("\u2581"), 3 + 'x'});
  CHECK(tokenizer.encode("").empty());
  for (const std::string text : {"hello world", " hello", "  h\u00e9\n", "\U0001f999 x", "<s>"})
    CHECK(tokenizer.decode(tokenizer.encode(text)) == text);
  CHECK(tokenizer.bytes_of(id("\u2581hello")) == " hello");
  CHECK(tokenizer.bytes_of(3 + 0x0a) == "\n");
  CHECK(tokenizer.bytes_of(1).empty());
  CHECK_THROWS_AS((void)tokenizer.decode(Ids{279}), offsite::ArgumentError);
  CHECK_THROWS_AS((void)tokenizer.bytes_of(-1), offsite::ArgumentError);
}

TEST_CASE("SentencePiece: begin and end token of the model, unless other files name some") {
  const ModelFolder folder(sentence_piece_model(small_pieces()));
  CHECK(folder.load().bos_id() == 1);
  CHECK(folder.load().eos_id() == 2);
  CHECK(folder.load().adds_bos());
  support::write_file(folder / "tokenizer_config.json",
                      R"({"add_bos_token": false, "bos_token": "</s>", "eos_token": {"content": "hello"}})");
  CHECK(folder.load().bos_id() == 2);
  CHECK_FALSE(folder.load().adds_bos());
  says(support::message_of<offsite::ProtocolError>([&] {
         support::write_file(folder / "tokenizer_config.json", R"({"bos_token": "[BOS]"})");
         (void)folder.load();
       }),
       R"(bos_token is "[BOS]", which is not in the vocabulary)");
}

TEST_CASE("SentencePiece: broken models are refused, above all those that the library would crash on") {
  says(ModelFolder("").refusal(), "it holds no pieces");
  says(ModelFolder("not a model").refusal(), "no SentencePiece model");
  says(ModelFolder("IQ== 0\nIg== 1\n").refusal(),
       "no SentencePiece model");  // Llama 3's older tokenizer.model
  const std::string good = sentence_piece_model(small_pieces());
  says(ModelFolder(good.substr(0, good.size() - 3)).refusal(), "its encoding is broken");
  says(ModelFolder(sentence_piece_model(small_pieces(), 4)).refusal(),
       "of type 4, but supported are BPE (2)");
  auto pieces = small_pieces();
  pieces[0].type = TestPiece::kNormal;
  says(ModelFolder(sentence_piece_model(pieces)).refusal(), "unk");
  pieces = small_pieces();
  pieces[300 - 30].score = std::numeric_limits<float>::quiet_NaN();
  says(ModelFolder(sentence_piece_model(pieces)).refusal(), "the score of piece 270 is no finite number");
  pieces = small_pieces();
  pieces[260].text = std::string("l\0l", 3);
  says(ModelFolder(sentence_piece_model(pieces)).refusal(), "holds a zero byte");

  // A trie of one block whose root points outside of it; then one whose leaf does.
  const auto map = [](std::uint32_t root, std::uint32_t leaf) {
    std::string trie(1024, '\0');
    for (int i = 0; i < 4; ++i) trie[static_cast<std::size_t>(i)] = static_cast<char>(root >> 8 * i & 0xff);
    for (int i = 0; i < 4; ++i)
      trie[static_cast<std::size_t>(4 + i)] = static_cast<char>(leaf >> 8 * i & 0xff);
    return std::string("\0\4\0\0", 4) + trie + std::string(1, '\0');
  };
  for (const std::string& broken :
       {map(0x7fffu << 10, 0), map(1u << 10 | 1u << 8, 0x80000005u), std::string("\4\0\0", 3),
        std::string("\xff\xff\xff\x7f", 4), map(0, 0).substr(0, 600)})
    says(ModelFolder(sentence_piece_model(small_pieces(), 2, broken)).refusal(), "character map is broken");
}

#else

TEST_CASE("SentencePiece: a build without it says which package brings it") {
  const support::TemporaryFolder folder;
  support::write_file(folder / "tokenizer.model", "x");
  const auto message =
      support::message_of<offsite::ArgumentError>([&] { (void)offsite::load_tokenizer(folder.path()); });
  CHECK(message.find("install the package libsentencepiece-dev") != message.npos);
}

#endif

}  // namespace sentence_piece_test
