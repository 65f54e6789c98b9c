// How fast is encoding? Megabytes a second on the texts of SciQ, one thread; the peer is
// peer/tokenizer_tiktoken.py.
//   tokenizer DATA [ROUNDS]     DATA holds sciq/train.json and tokenizers/gpt2 (encoder.json, vocab.bpe)
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "offsite/data/load_tokenizer.hpp"

namespace {

template <class F>
double seconds(F&& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

int run(const std::filesystem::path& data, int rounds) {
  std::vector<std::string> rows;
  std::string whole;
  for (const auto& row : offsite::read_json(data / "sciq" / "train.json")) {
    rows.push_back(row.at("support").get<std::string>() + "\n" + row.at("question").get<std::string>());
    whole += rows.back() + "\n";
  }
  std::size_t bytes = 0;
  for (const std::string& row : rows) bytes += row.size();

  std::vector<double> load, by_row, at_once, decode;
  std::size_t tokens = 0;
  for (int round = 0; round < rounds; ++round) {
    load.push_back(seconds([&] { (void)offsite::load_tokenizer(data / "tokenizers" / "gpt2"); }));
    const auto tokenizer = offsite::load_tokenizer(data / "tokenizers" / "gpt2");
    tokens = 0;
    by_row.push_back(seconds([&] {
      for (const std::string& row : rows) tokens += tokenizer.encode(row).size();
    }));
    std::vector<std::int32_t> ids;
    at_once.push_back(seconds([&] { ids = tokenizer.encode(whole); }));
    std::string text;
    decode.push_back(seconds([&] { text = tokenizer.decode(ids); }));
    offsite::require(text == whole, "round {}: the text did not come back", round);
  }
  const auto best = [](const std::vector<double>& times) {
    return *std::min_element(times.begin(), times.end());
  };
  const auto rate = [](std::size_t size, double time) { return static_cast<double>(size) * 1e-6 / time; };
  std::printf(
      "offsite: %zu rows, %zu bytes, %zu tokens; best of %d: by row %.1f MB/s, at once %.1f MB/s, "
      "decode %.1f MB/s, load %.0f ms\n",
      rows.size(), bytes, tokens, rounds, rate(bytes, best(by_row)), rate(whole.size(), best(at_once)),
      rate(whole.size(), best(decode)), best(load) * 1e3);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: tokenizer DATA [ROUNDS]\n");
    return 2;
  }
  try {
    return run(argv[1], argc > 2 ? std::atoi(argv[2]) : 5);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
