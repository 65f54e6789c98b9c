// Encodes texts for make_tokenizer_shapes.py, which compiles this file.
//   encode_texts FOLDER TEXTS IDS [ROUNDS]
// TEXTS and IDS hold items one after the other, each a count of 32 bits (of bytes, of ids) and what it counts. After
// the ids of a text come those of what they decode to, as bytes. Says how many MB/s the best of ROUNDS encoded.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "offsite/data/load_tokenizer.hpp"

namespace {

int run(int count, char** words) {
  const auto tokenizer = offsite::load_tokenizer(words[1]);
  const offsite::MappedFile file(words[2]);
  std::vector<std::string_view> texts;
  std::size_t bytes = 0;
  for (std::string_view rest = file.text(); !rest.empty();) {
    std::uint32_t size = 0;
    std::memcpy(&size, rest.data(), sizeof size);
    texts.push_back(rest.substr(sizeof size, size));
    rest.remove_prefix(sizeof size + size);
    bytes += size;
  }
  double best = 1e9;
  std::vector<std::vector<std::int32_t>> all(texts.size());
  for (int round = 0; round < (count > 4 ? std::atoi(words[4]) : 1); ++round) {
    const auto start = std::chrono::steady_clock::now();
    for (std::size_t i = 0; i < texts.size(); ++i) all[i] = tokenizer.encode(texts[i]);
    const auto time = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = std::min(best, time);
  }
  std::FILE* out = std::fopen(words[3], "wb");
  offsite::require(out != nullptr, "cannot write {}", words[3]);
  const auto write = [&](const void* data, std::size_t items, std::size_t item_bytes) {
    const auto size = static_cast<std::uint32_t>(items);
    std::fwrite(&size, sizeof size, 1, out);
    std::fwrite(data, item_bytes, items, out);
  };
  for (const auto& ids : all) {
    write(ids.data(), ids.size(), sizeof ids[0]);
    const std::string text = tokenizer.decode(ids);
    write(text.data(), text.size(), 1);
  }
  std::fclose(out);
  std::printf("%.1f MB/s\n", static_cast<double>(bytes) * 1e-6 / best);
  return 0;
}

}  // namespace

int main(int count, char** words) {
  try {
    return count < 4 ? 2 : run(count, words);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
