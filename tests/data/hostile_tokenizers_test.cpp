#include <cstdlib>

#include "data/json_patch.hpp"
#include "data/sentence_piece_model.hpp"
#include "offsite/core/random.hpp"
#include "offsite/data/load_tokenizer.hpp"
#include "support/test.hpp"

namespace hostile_tokenizers_test {

namespace {

/// How many mutated files of each kind; OFFSITE_MUTATIONS asks for more.
int rounds() {
  const char* wanted = std::getenv("OFFSITE_MUTATIONS");
  return wanted != nullptr ? std::atoi(wanted) : 1500;
}

/// `text` with some bytes changed, taken out or repeated.
std::string mutated(std::string text, std::string_view alphabet, offsite::RandomStream& random) {
  for (std::uint64_t change = random.below(4) + 1; change > 0 && !text.empty(); --change) {
    const std::size_t at = random.below(text.size());
    switch (random.below(5)) {
      case 0:
        text[at] = static_cast<char>(random.below(256));
        break;
      case 1:
        text[at] = alphabet[random.below(alphabet.size())];
        break;
      case 2:
        text.erase(at, random.below(20));
        break;
      case 3:
        text.insert(at, text.substr(random.below(text.size()), random.below(20)));
        break;
      default:
        text[at] = static_cast<char>(text[at] ^ static_cast<char>(1 << random.below(8)));
    }
  }
  return text;
}

/// Reads the folder's tokenizer and uses it; whether it could be read. Anything but our own errors fails the test.
bool reads(const support::TemporaryFolder& folder) {
  try {
    const auto tokenizer = offsite::load_tokenizer(folder.path());
    for (const std::string text :
         {"the miller <|endoftext|> \xff paints 12 \u2581 e\u0301<s>", "", "  \n\n"}) {
      const auto ids = tokenizer.encode(text);
      CHECK(ids.size() < 10'000);
      CHECK(tokenizer.decode(ids).size() < 100'000);
    }
    return true;
  } catch (const offsite::ProtocolError&) {
  } catch (const offsite::ArgumentError&) {
  }
  return false;
}

}  // namespace

TEST_CASE("load_tokenizer: mutated tokenizer.json files are refused or read, nothing else") {
  std::vector<std::string> originals;
  const auto shapes = offsite::read_json(support::golden("tokenizer/shapes.json"));
  for (const auto& shape : shapes) {
    const auto base = offsite::read_json(support::golden("tokenizer") / shape.at("base").text());
    originals.push_back(merge_patched(base, shape.at("patch")).dump());
    // The steps are few beside the vocabulary: half of the files have hardly any.
    auto small = merge_patched(base, shape.at("patch"));
    small["model"]["vocab"] = offsite::parse_json(R"({"a": 0, "b": 1, "ab": 2, "<unk>": 3})", "vocab");
    small["model"]["merges"] = offsite::parse_json(R"([["a", "b"]])", "merges");
    small["added_tokens"] = offsite::parse_json(
        R"([{"id": 4, "content": "<s>", "normalized": true, "lstrip": true}])", "added_tokens");
    originals.push_back(small.dump());
  }
  const support::TemporaryFolder folder;
  offsite::RandomStream random(11);
  int read = 0;
  for (int round = 0; round < rounds(); ++round) {
    const auto& original = originals[random.below(originals.size())];
    support::write_file(folder / "tokenizer.json", mutated(original, "0123456789-\"[]{},:tfn", random));
    read += reads(folder) ? 1 : 0;
  }
  CHECK(read > 0);
  CHECK(read < rounds());
}

TEST_CASE("load_tokenizer: mutated tokenizer.model files are refused or read, nothing else") {
#ifdef OFFSITE_SENTENCEPIECE
  // An empty trie, and the texts of a character map, so that mutations reach them.
  const std::string map = std::string("\0\4\0\0", 4) + std::string(1024, '\0') + std::string("a\0b\0", 4);
  const auto pieces = small_pieces();
  const std::vector<TestPiece> few(pieces.begin() + 240, pieces.end());
  auto unigram = few;
  unigram.insert(unigram.begin(), pieces.begin(), pieces.begin() + 3);
  const std::vector<std::string> originals{sentence_piece_model(pieces), sentence_piece_model(pieces, 2, map),
                                           sentence_piece_model(pieces, 1),
                                           sentence_piece_model(unigram, 1, map)};
  const support::TemporaryFolder folder;
  offsite::RandomStream random(12);
  int read = 0;
  for (int round = 0; round < rounds(); ++round) {
    const auto& original = originals[random.below(originals.size())];
    support::write_file(folder / "tokenizer.model",
                        mutated(original, std::string_view("\0\1\2\x7f\x80\xff", 6), random));
    read += reads(folder) ? 1 : 0;
  }
  CHECK(read > 0);
  CHECK(read < rounds());
#else
  support::skip("this build has no SentencePiece");
#endif
}

}  // namespace hostile_tokenizers_test
