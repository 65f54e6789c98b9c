// Texts and ids that other projects' tests expect, with the vocabularies they were published with.
#include <optional>

#include "data/prompt_vectors.hpp"
#include "data/sentence_piece_model.hpp"
#include "offsite/data/load_tokenizer.hpp"
#include "support/test.hpp"

namespace tokenizer_vectors_test {

namespace {

using Ids = std::vector<std::int32_t>;

/// Llama's vocabulary as Hugging Face's converter writes it.
offsite::AnyTokenizer converted_llama() {
  const support::TemporaryFolder folder;
  const std::string model = support::read_file(support::data("tokenizers/llama/tokenizer.model"));
  support::write_file(folder / "tokenizer.json", llama_tokenizer_json(pieces_of(model)).dump());
  return offsite::load_tokenizer(folder.path());
}

void check_llama(const offsite::AnyTokenizer& llama, bool finds_specials) {
  CHECK(llama.vocabulary_size() == 32000);
  CHECK(llama.bos_id() == 1);
  CHECK(llama.adds_bos());
  const auto plain = offsite::read_json(support::data("tokenizer_vectors/llamacpp_llama-spm.json"));
  CHECK(plain.size() == 43);
  for (const auto& entry : plain) {
    const auto text = entry.at("text").text();
    CAPTURE(text);
    CHECK(llama.encode(text) == entry.at("ids").get<Ids>());
    if (!finds_specials) CHECK(llama.decode(llama.encode(text)) == text);
  }
  const auto published = offsite::read_json(support::data("tokenizer_vectors/transformersjs_llama.json"));
  const auto& vectors = published.at("Xenova/llama-tokenizer");
  CHECK(vectors.size() == 37);
  for (const auto& [name, entry] : vectors.items()) {
    const auto text = entry.at("text").text();
    CAPTURE(name);
    Ids ids = llama.encode(text);
    ids.insert(ids.begin(), 1);
    CHECK(ids == entry.at("ids").get<Ids>());
    if (finds_specials) CHECK(llama.decode(ids) == entry.at("decoded").text());
  }
}

}  // namespace

TEST_CASE("load_tokenizer: every vector for Llama, by tokenizer.model") {
#ifdef OFFSITE_SENTENCEPIECE
  if (!support::have_data("tokenizers/llama") || !support::have_data("tokenizer_vectors")) return;
  check_llama(offsite::load_tokenizer(support::data("tokenizers/llama")), false);
#else
  support::skip("this build has no SentencePiece");
#endif
}

TEST_CASE("load_tokenizer: every vector for Llama, by the tokenizer.json made of tokenizer.model") {
  if (!support::have_data("tokenizers/llama") || !support::have_data("tokenizer_vectors")) return;
  check_llama(converted_llama(), true);
}

TEST_CASE("load_tokenizer: tokenizer.model and the tokenizer.json made of it agree on a textbook") {
#ifdef OFFSITE_SENTENCEPIECE
  if (!support::have_data("tokenizers/llama") || !support::have_data("corpora/openstax")) return;
  const auto library = offsite::load_tokenizer(support::data("tokenizers/llama")), ours = converted_llama();
  std::filesystem::path book;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(support::data("corpora/openstax")))
    if (entry.is_regular_file() && entry.file_size() > 100'000 && (book.empty() || entry.path() < book))
      book = entry.path();
  const std::string text = support::read_file(book).substr(0, 300'000);
  for (std::size_t begin = 0; begin < text.size(); begin += 1000) {
    const std::string part = text.substr(begin, 1000);
    if (offsite::find_invalid_utf8(part) != part.npos) continue;  // cut within a character
    CHECK(ours.encode(part) == library.encode(part));
  }
#else
  support::skip("this build has no SentencePiece");
#endif
}

TEST_CASE("load_tokenizer: every vector for GPT-NeoX, whose vocabulary OLMo's contains") {
  if (!support::have_data("tokenizers/gpt_neox") || !support::have_data("tokenizer_vectors")) return;
  const support::TemporaryFolder folder;
  std::filesystem::copy(support::data("tokenizers/gpt_neox/allenai_gpt-neox-olmo-dolma-v1_5.json"),
                        folder / "tokenizer.json");
  const auto olmo = offsite::load_tokenizer(folder.path());
  CHECK(olmo.vocabulary_size() == 50280);
  CHECK(olmo.eos_id() == 50279);
  for (const char* name : {"gpt-neox.txt", "dolly-v2.txt"}) {
    const int count = for_each_prompt(name, [&](const std::string& text, const Ids& ids) {
      CAPTURE(text);
      CHECK(olmo.encode(text) == ids);
      CHECK(olmo.decode(ids) == text);
    });
    CHECK(count == 100);
  }
}

TEST_CASE("load_tokenizer: OPT's files give GPT-2's words and OPT's begin token") {
  if (!support::have_data("tokenizers/opt") || !support::have_data("tokenizers/gpt2")) return;
  const support::TemporaryFolder folder;
  std::filesystem::copy(support::data("tokenizers/opt/gpt2-vocab.json"), folder / "vocab.json");
  std::filesystem::copy(support::data("tokenizers/opt/gpt2-merges.txt"), folder / "merges.txt");
  support::write_file(folder / "config.json",
                      R"({"model_type": "opt", "bos_token_id": 2, "eos_token_id": 2})");
  const auto opt = offsite::load_tokenizer(folder.path());
  const auto gpt2 = offsite::load_tokenizer(support::data("tokenizers/gpt2"));
  CHECK(opt.adds_bos());
  CHECK(opt.bos_id() == 2);
  CHECK(opt.bytes_of(2) == "</s>");
  for_each_prompt("gpt-2.txt", [&](const std::string& text, const Ids& ids) {
    const Ids of_opt = opt.encode(text);
    CHECK(opt.decode(of_opt) == text);
    REQUIRE(of_opt.size() == ids.size());
    for (std::size_t i = 0; i < ids.size(); ++i) CHECK(opt.bytes_of(of_opt[i]) == gpt2.bytes_of(ids[i]));
  });
}

TEST_CASE("split patterns: words end where tokens end, in the vectors whose vocabulary is not here") {
  if (!support::have_data("tokenizer_vectors")) return;
  const auto check = [](std::string_view file, const char* model, offsite::SplitPattern pattern,
                        std::size_t least) {
    const auto vectors = offsite::read_json(support::data("tokenizer_vectors") / file);
    const auto& of_model = vectors.at(model);
    const offsite::TextSplitter splitter({offsite::SplitStep{.pattern = pattern}});
    std::size_t checked = 0;
    for (const auto& [name, entry] : of_model.items()) {
      CAPTURE(name);
      std::string text;
      std::vector<std::size_t> ends;
      for (const auto& token : entry.at("tokens")) {
        const auto bytes = offsite::bytes_of_token(token.text());
        if (!bytes) break;
        ends.push_back((text += *bytes).size());
      }
      if (text != entry.at("text").text()) continue;  // special tokens stand in the text
      std::size_t at = 0;
      splitter.for_each_word(text, true, [&](std::string_view word) {
        at += word.size();
        CHECK(std::binary_search(ends.begin(), ends.end(), at));
      });
      CHECK(at == text.size());
      checked += 1;
    }
    CHECK(checked >= least);
  };
  check("transformersjs_bloom.json", "Xenova/bloom-560m", offsite::SplitPattern::kBloom, 30);
  check("transformersjs_llama.json", "Xenova/llama3-tokenizer", offsite::SplitPattern::kLlama3, 36);
  check("transformersjs_llama.json", "Xenova/llama3-tokenizer-new", offsite::SplitPattern::kLlama3, 36);
}

}  // namespace tokenizer_vectors_test
