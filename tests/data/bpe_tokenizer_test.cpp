#include "offsite/data/bpe_tokenizer.hpp"

#include <chrono>
#include <thread>

#include "data/json_patch.hpp"
#include "data/prompt_vectors.hpp"
#include "offsite/core/random.hpp"
#include "offsite/data/load_tokenizer.hpp"
#include "support/test.hpp"

namespace bpe_tokenizer_test {

namespace {

using Ids = std::vector<std::int32_t>;

offsite::BpeTokenizer small_tokenizer() {
  const support::TemporaryFolder folder;
  std::filesystem::copy(support::golden("tokenizer/tokenizer.json"), folder.path());
  return *offsite::load_tokenizer(folder.path()).bpe();
}

void check_cases(const offsite::AnyTokenizer& tokenizer, const offsite::Json& cases, bool round_trip) {
  for (const auto& entry : cases) {
    const auto text = entry[0].get<std::string>();
    const Ids ids = tokenizer.encode(text);
    CAPTURE(text);
    CHECK(ids == entry[1].get<Ids>());
    if (round_trip) CHECK(tokenizer.decode(ids) == text);
  }
}

std::string utf8(std::uint32_t c) {
  std::string text;
  offsite::append_utf8(text, c);
  return text;
}

/// A rule-by-rule merge as the definition reads: the lowest rank, there the leftmost pair.
Ids merged_slowly(Ids symbols, const std::vector<offsite::BpeMerge>& rules) {
  for (;;) {
    std::size_t best_rank = rules.size(), best = 0;
    for (std::size_t i = 0; i + 1 < symbols.size(); ++i)
      for (std::size_t rank = 0; rank < best_rank; ++rank)
        if (rules[rank].left == symbols[i] && rules[rank].right == symbols[i + 1]) best_rank = rank, best = i;
    if (best_rank == rules.size()) return symbols;
    symbols[best] = rules[best_rank].merged;
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
}

}  // namespace

TEST_CASE("BpeTokenizer: the ids of Hugging Face's tokenizers, in every variant of the golden files") {
  const auto base = offsite::read_json(support::golden("tokenizer/tokenizer.json"));
  const auto variants = offsite::read_json(support::golden("tokenizer/cases.json"));
  CHECK(variants.size() == 10);
  for (const auto& variant : variants) {
    const auto name = variant.at("name").get<std::string>();
    CAPTURE(name);
    const auto patched = merge_patched(base, variant.at("patch"));
    const support::TemporaryFolder folder;
    support::write_file(folder / "tokenizer.json", patched.dump());
    const bool keeps_all = name == "plain" || name == "no split" || name.find("merges") != name.npos;
    check_cases(offsite::load_tokenizer(folder.path()), variant.at("cases"), keeps_all);
  }
}

TEST_CASE("BpeTokenizer: vocab.json with merges.txt gives the same ids, special text stays text") {
  const support::TemporaryFolder folder;
  for (const char* name : {"vocab.json", "merges.txt"})
    std::filesystem::copy(support::golden("tokenizer") / name, folder.path());
  const auto tokenizer = offsite::load_tokenizer(folder.path());
  const auto variants = offsite::read_json(support::golden("tokenizer/cases.json"));
  for (const auto& entry : variants[0].at("cases")) {
    const auto text = entry[0].get<std::string>();
    if (text.find("<|endoftext|>") != text.npos) continue;
    CAPTURE(text);
    CHECK(tokenizer.encode(text) == entry[1].get<Ids>());
  }
  const Ids ids = tokenizer.encode("a<|endoftext|>");
  CHECK(ids.size() > 5);
  CHECK(tokenizer.decode(ids) == "a<|endoftext|>");
  CHECK(tokenizer.eos_id() == 0);
  CHECK(tokenizer.decode(Ids{0}) == "<|endoftext|>");
  CHECK(small_tokenizer().encode("a<|endoftext|>").back() == 0);
}

TEST_CASE("BpeTokenizer: every vector of other projects for GPT-2") {
  if (!support::have_data("tokenizers/gpt2") || !support::have_data("tokenizer_vectors")) return;
  const auto gpt2 = offsite::load_tokenizer(support::data("tokenizers/gpt2"));
  CHECK(gpt2.vocabulary_size() == 50257);
  CHECK(gpt2.eos_id() == 50256);
  CHECK(gpt2.bos_id() == 50256);
  CHECK_FALSE(gpt2.adds_bos());
  int vectors = 0;
  const auto check = [&](const std::string& text, const Ids& ids) {
    CAPTURE(text);
    CHECK(gpt2.encode(text) == ids);
    CHECK(gpt2.decode(ids) == text);
    vectors += 1;
  };
  const auto llamacpp = offsite::read_json(support::data("tokenizer_vectors/llamacpp_gpt-2.json"));
  for (const auto& entry : llamacpp) check(entry.at("text").get<std::string>(), entry.at("ids").get<Ids>());
  const auto published = offsite::read_json(support::data("tokenizer_vectors/transformersjs_gpt2.json"));
  for (const char* model : {"Xenova/gpt2", "openai-community/gpt2"})
    for (const auto& entry : published.at(model))
      check(entry.at("text").get<std::string>(), entry.at("ids").get<Ids>());

  for_each_prompt("gpt-2.txt", check);
  CHECK(vectors == 46 + 2 * 26 + 100);
}

TEST_CASE("BpeTokenizer: any bytes come back, valid UTF-8 or not") {
  const auto tokenizer = small_tokenizer();
  offsite::RandomStream random(3);
  for (int round = 0; round < 3000; ++round) {
    std::string bytes(static_cast<std::size_t>(random.below(60)), '\0');
    // Half of the texts draw from few bytes, so that sequences get broken in the middle.
    for (char& c : bytes)
      c = round % 2 == 0 ? static_cast<char>(random.below(256))
                         : "a \xe4\xb8\xad\xf0\x9f'\n"[random.below(9)];
    CHECK(tokenizer.decode(tokenizer.encode(bytes)) == bytes);
  }
  CHECK(tokenizer.encode("").empty());
  CHECK(tokenizer.decode({}).empty());
}

TEST_CASE("BpeTokenizer: every code point comes back") {
  const auto tokenizer = small_tokenizer();
  int wrong = 0;
  for (std::uint32_t c = 0; c < 0x110000; ++c) {
    if (0xd800 <= c && c < 0xe000) continue;
    const std::string one = utf8(c);
    const std::string text = "a" + one + "b " + one + one + "1 \n" + one + " ";
    wrong += tokenizer.decode(tokenizer.encode(text)) == text ? 0 : 1;
  }
  CHECK(wrong == 0);
}

TEST_CASE("BpeTokenizer: a word of a million bytes takes no quadratic time") {
  const auto tokenizer = small_tokenizer();
  const auto start = std::chrono::steady_clock::now();
  for (const std::string_view piece : {"a", "theb", "=", " ", "\xe4"}) {
    std::string word;
    while (word.size() < 1'000'000) word += piece;
    CHECK(tokenizer.decode(tokenizer.encode(word)) == word);
  }
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(60));  // quadratic: hours
}

TEST_CASE("BpeTokenizer: threads share one tokenizer") {
  const auto tokenizer = small_tokenizer();
  const std::string text = "the miller paints the bridge, 1234 apples \xe4\xb8\xad";
  const Ids expected = tokenizer.encode(text);
  std::vector<int> wrong(4);
  std::vector<std::thread> threads;
  for (int& count : wrong)
    threads.emplace_back([&] {
      for (int i = 0; i < 500; ++i) count += tokenizer.encode(text) == expected ? 0 : 1;
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == std::vector<int>(4));
}

TEST_CASE("BpeTokenizer: an id outside the vocabulary is refused with both numbers") {
  const auto tokenizer = small_tokenizer();
  CHECK(support::message_of<offsite::ArgumentError>([&] {
          (void)tokenizer.decode(Ids{1, 467});
        }) == "token id 467 is not in the tokenizer's vocabulary of 467 tokens");
  CHECK_THROWS_AS((void)tokenizer.decode(Ids{-1}), offsite::ArgumentError);
}

TEST_CASE("BpeTokenizer: bytes_of and find are inverse") {
  const auto tokenizer = small_tokenizer();
  for (std::int32_t id = 0; id < tokenizer.vocabulary_size(); ++id)
    CHECK(tokenizer.find(tokenizer.bytes_of(id)) == id);
  CHECK(tokenizer.find("no such token") == std::nullopt);
}

TEST_CASE("BpeTokenizer: parts that name ids they do not hold are refused") {
  offsite::BpeParts parts{.tokens = {{"a"}, {"b"}, {"ab"}}, .merges = {{0, 1, 3}}};
  CHECK_THROWS_AS(offsite::BpeTokenizer{parts}, offsite::ArgumentError);
  parts.merges = {{0, 1, 2}};
  parts.bytes['a'] = 0;
  parts.bytes['b'] = 1;
  CHECK(offsite::BpeTokenizer(parts).encode("abXab") == Ids{2, 2});
  parts.eos = 3;
  CHECK_THROWS_AS(offsite::BpeTokenizer{parts}, offsite::ArgumentError);
}

TEST_CASE("BpeMerges: short and long words give what the definition gives, whatever the order of the rules") {
  offsite::RandomStream random(5);
  for (int round = 0; round < 40; ++round) {
    std::vector<offsite::BpeMerge> rules;
    for (std::int32_t made = 3; made < 40; ++made)
      rules.push_back({static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(made))),
                       static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(made))), made});
    for (std::size_t i = rules.size(); i > 1; --i) std::swap(rules[i - 1], rules[random.below(i)]);
    // The definition takes the first of two rules for a pair, Hugging Face the last: leave one.
    std::vector<offsite::BpeMerge> distinct;
    for (const auto& rule : rules) {
      const auto same = [&](const offsite::BpeMerge& r) {
        return r.left == rule.left && r.right == rule.right;
      };
      if (std::none_of(distinct.begin(), distinct.end(), same)) distinct.push_back(rule);
    }
    const offsite::BpeMerges merges(distinct);
    for (const std::size_t size : {0u, 1u, 2u, 47u, 48u, 49u, 200u}) {
      Ids word(size), out;
      for (auto& symbol : word) symbol = static_cast<std::int32_t>(random.below(3));
      merges.apply(word, out);
      CHECK(out == merged_slowly(word, distinct));
    }
  }
}

}  // namespace bpe_tokenizer_test
