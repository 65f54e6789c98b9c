#pragma once
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "offsite/core/error.hpp"

namespace offsite::detail {

/// A field of a message in Protocol Buffers' encoding.
struct WireField {
  std::uint64_t number = 0;
  std::uint64_t value = 0;      ///< of a number
  std::string_view bytes = {};  ///< of a text or a message
  bool is_bytes = false;
};

/// Takes the next field off `rest`, which is not empty; false if it is broken.
inline bool take_field(std::string_view& rest, WireField& field) {
  const auto varint = [&](std::uint64_t& value) {
    value = 0;
    for (int shift = 0; shift < 64 && !rest.empty(); shift += 7) {
      const auto byte = static_cast<unsigned char>(rest[0]);
      rest.remove_prefix(1);
      value |= static_cast<std::uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return true;
    }
    return false;
  };
  const auto fixed = [&](std::size_t bytes) {
    if (rest.size() < bytes) return false;
    field.value = 0;
    for (std::size_t i = 0; i < bytes; ++i)
      field.value |= static_cast<std::uint64_t>(static_cast<unsigned char>(rest[i])) << 8 * i;
    rest.remove_prefix(bytes);
    return true;
  };
  field = {};
  std::uint64_t key = 0, length = 0;
  if (!varint(key) || key >> 3 == 0) return false;
  field.number = key >> 3;
  switch (key & 7) {
    case 0:
      return varint(field.value);
    case 1:
      return fixed(8);
    case 2:
      if (!varint(length) || length > rest.size()) return false;
      field.is_bytes = true;
      field.bytes = rest.substr(0, static_cast<std::size_t>(length));
      rest.remove_prefix(field.bytes.size());
      return true;
    case 5:
      return fixed(4);
    default:
      return false;
  }
}

/// Calls `use(field)` for each field of a message. \throws ProtocolError naming `file` if it is broken.
template <class Use>
void for_each_field(std::string_view message, const std::string& file, Use&& use) {
  WireField field;
  while (!message.empty()) {
    require<ProtocolError>(take_field(message, field), "{} is no SentencePiece model: its encoding is broken",
                           file);
    use(field);
  }
}

/// Whether every step that SentencePiece takes in a compiled character map stays within it: it checks none itself.
/// The map is the length of a trie, the trie of 32-bit units, and the texts that its leaves point into.
inline bool is_sound_character_map(std::string_view map) {
  const auto unit_at = [&](std::size_t at) {
    std::uint32_t unit = 0;
    std::memcpy(&unit, map.data() + at, sizeof unit);
    return unit;
  };
  if (map.empty()) return true;
  if (map.size() < 4 || map.back() != '\0') return false;
  const std::size_t trie_bytes = unit_at(0), units = trie_bytes / 4;
  if (trie_bytes % 4 != 0 || trie_bytes > map.size() - 4 || units == 0) return false;
  const std::size_t text_bytes = map.size() - 4 - trie_bytes;
  for (std::size_t i = 0; i < units; ++i) {
    const std::uint32_t unit = unit_at(4 + 4 * i);
    if (unit >> 31 != 0) {  // a leaf: the place of a text
      if ((unit & 0x7fffffffu) >= text_bytes) return false;
      continue;
    }
    const std::size_t offset = (unit >> 10) << ((unit & 1u << 9) >> 6);
    if (((i ^ offset) | 0xff) >= units) return false;
    const bool has_leaf = (unit >> 8 & 1) != 0;
    if (has_leaf && unit_at(4 + 4 * (i ^ offset)) >> 31 == 0) return false;
  }
  return true;
}

/// Refuses a SentencePiece model that the library would crash on, or that is of a kind we do not test.
/// \throws ProtocolError naming `file`.
inline void check_sentence_piece_model(std::string_view model, const std::string& file) {
  constexpr std::uint64_t kUnigram = 1, kBpe = 2;
  std::uint64_t model_type = kUnigram;  // what a file that does not say has
  std::size_t pieces = 0;
  const auto check_rules = [&](std::string_view rules) {
    for_each_field(rules, file, [&](const WireField& field) {
      if (field.number == 2)
        require<ProtocolError>(field.is_bytes && is_sound_character_map(field.bytes),
                               "{}: the model's compiled character map is broken", file);
    });
  };
  for_each_field(model, file, [&](const WireField& field) {
    if (field.number > 5) return;  // extensions
    require<ProtocolError>(field.is_bytes, "{} is no SentencePiece model: field {} is a number", file,
                           field.number);
    switch (field.number) {
      case 1:
        for_each_field(field.bytes, file, [&](const WireField& part) {
          if (part.number == 1)
            require<ProtocolError>(part.is_bytes && part.bytes.find('\0') == part.bytes.npos,
                                   "{}: piece {} is no text, or holds a zero byte", file, pieces);
          if (part.number == 2)
            require<ProtocolError>(
                std::isfinite(std::bit_cast<float>(static_cast<std::uint32_t>(part.value))),
                "{}: the score of piece {} is no finite number", file, pieces);
        });
        pieces += 1;
        break;
      case 2:
        for_each_field(field.bytes, file, [&](const WireField& part) {
          if (part.number == 3) model_type = part.value;
        });
        break;
      case 3:
      case 5:
        check_rules(field.bytes);
        break;
      default:
        break;
    }
  });
  require<ProtocolError>(pieces > 0, "{} is no SentencePiece model: it holds no pieces", file);
  require<ProtocolError>(
      model_type == kUnigram || model_type == kBpe,
      "{}: the SentencePiece model is of type {}, but supported are BPE (2) and Unigram (1)", file,
      model_type);
}

}  // namespace offsite::detail
