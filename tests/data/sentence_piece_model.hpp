#pragma once
#include <algorithm>
#include <bit>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "offsite/data/sentence_piece_file.hpp"
#include "offsite/io/json.hpp"

/// A piece of a SentencePiece model.
struct TestPiece {
  enum Type : std::uint64_t { kNormal = 1, kUnknown = 2, kControl = 3, kByte = 6 };
  std::string text;
  float score = 0;
  Type type = kNormal;
};

namespace wire {

inline std::string varint(std::uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(0x80 | (value & 0x7f));
  return out + static_cast<char>(value);
}
inline std::string number(std::uint64_t field, std::uint64_t value) {
  return varint(field << 3) + varint(value);
}
inline std::string bytes(std::uint64_t field, std::string_view value) {
  return varint(field << 3 | 2) + varint(value.size()) + std::string(value);
}
inline std::string real(std::uint64_t field, float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  std::string out = varint(field << 3 | 5);
  for (int i = 0; i < 4; ++i) out += static_cast<char>(bits >> 8 * i & 0xff);
  return out;
}

}  // namespace wire

/// A tokenizer.model as Llama's: BPE (`type` 2), bytes for what has no piece, a space before each text.
inline std::string sentence_piece_model(const std::vector<TestPiece>& pieces, std::uint64_t type = 2,
                                        std::string_view character_map = "") {
  std::string model;
  for (const auto& piece : pieces)
    model +=
        wire::bytes(1, wire::bytes(1, piece.text) + wire::real(2, piece.score) + wire::number(3, piece.type));
  model += wire::bytes(2, wire::number(3, type) + wire::number(35, 1));
  std::string rules = wire::bytes(1, "identity");
  if (!character_map.empty()) rules += wire::bytes(2, character_map);
  return model + wire::bytes(3, rules + wire::number(3, 1) + wire::number(4, 0) + wire::number(5, 1));
}

/// Special pieces, bytes, a few letters and what they merge to.
inline std::vector<TestPiece> small_pieces() {
  std::vector<TestPiece> pieces{
      {"<unk>", 0, TestPiece::kUnknown}, {"<s>", 0, TestPiece::kControl}, {"</s>", 0, TestPiece::kControl}};
  for (int byte = 0; byte < 256; ++byte)
    pieces.push_back({offsite::formatted("<0x{:02X}>", byte), 0, TestPiece::kByte});
  for (const char* text :
       {"he",     "ll", "hell", "hello", "\u2581hello", "or", "wor", "ld", "\u2581wor", "\u2581\u2581",
        "\u2581", "h",  "e",    "l",     "o",           "w",  "r",   "d",  "\u00e9",    "\n"})
    pieces.push_back({text, -static_cast<float>(pieces.size())});
  return pieces;
}

/// The pieces of a tokenizer.model.
inline std::vector<TestPiece> pieces_of(std::string_view model) {
  std::vector<TestPiece> pieces;
  offsite::detail::for_each_field(model, "the model", [&](const offsite::detail::WireField& field) {
    if (field.number != 1) return;
    TestPiece piece;
    offsite::detail::for_each_field(field.bytes, "the piece", [&](const offsite::detail::WireField& part) {
      if (part.number == 1) piece.text = part.bytes;
      if (part.number == 2) piece.score = std::bit_cast<float>(static_cast<std::uint32_t>(part.value));
      if (part.number == 3) piece.type = static_cast<TestPiece::Type>(part.value);
    });
    pieces.push_back(std::move(piece));
  });
  return pieces;
}

/// The tokenizer.json that Hugging Face's converter makes of Llama's pieces.
inline offsite::Json llama_tokenizer_json(const std::vector<TestPiece>& pieces) {
  using offsite::Json;
  std::map<std::string, std::int32_t, std::less<>> ids;
  std::vector<std::string> names;
  std::vector<Json> numbers;
  for (const auto& piece : pieces) {
    names.push_back(piece.text);
    numbers.emplace_back(static_cast<std::int64_t>(ids.size()));
    ids.emplace(piece.text, static_cast<std::int32_t>(ids.size()));
  }
  std::vector<std::tuple<float, std::size_t, std::size_t, std::string, std::string>> merges;
  for (const auto& piece : pieces)
    for (std::size_t cut = 1; cut < piece.text.size(); ++cut) {
      const std::string left = piece.text.substr(0, cut), right = piece.text.substr(cut);
      if (ids.contains(left) && ids.contains(right))
        merges.emplace_back(piece.score, left.size(), right.size(), left, right);
    }
  std::stable_sort(merges.begin(), merges.end(),
                   [](const auto& a, const auto& b) { return std::get<0>(a) > std::get<0>(b); });
  Json rules = Json::array();
  for (const auto& merge : merges) rules.push_back(Json::array({std::get<3>(merge), std::get<4>(merge)}));

  Json file = offsite::parse_json(R"({"added_tokens": [], "normalizer": {"type": "Sequence", "normalizers": [
      {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
    "pre_tokenizer": null, "post_processor": {"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
      "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
    "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
      {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true}})",
                                  "Llama's steps");
  for (const char* special : {"<unk>", "<s>", "</s>"})
    file["added_tokens"].push_back(
        Json::object({{"id", ids.at(special)}, {"content", special}, {"special", true}}));
  file["model"]["vocab"] = Json::object(std::move(names), std::move(numbers));
  file["model"]["merges"] = std::move(rules);
  return file;
}
