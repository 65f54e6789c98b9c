#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "offsite/data/tokenizer.hpp"

/// The smallest tokenizer in which text may join across a seam: a byte is its own id, but a space and the byte after it
/// are one token, 256 + that byte.
struct TinyTokenizer {
  std::optional<std::int32_t> bos = 513;
  std::optional<std::int32_t> eos = 512;
  bool adds = false;

  [[nodiscard]] std::vector<std::int32_t> encode(std::string_view text) const {
    std::vector<std::int32_t> ids;
    for (std::size_t i = 0; i < text.size(); ++i) {
      const bool joins = text[i] == ' ' && i + 1 < text.size();
      if (joins) ++i;
      ids.push_back(static_cast<unsigned char>(text[i]) + (joins ? 256 : 0));
    }
    return ids;
  }

  [[nodiscard]] std::string decode(std::span<const std::int32_t> ids) const {
    std::string text;
    for (const auto id : ids) {
      if (id >= 512) {
        text += id == 512 ? "<eos>" : "<bos>";
        continue;
      }
      if (id >= 256) text += ' ';
      text += static_cast<char>(id % 256);
    }
    return text;
  }

  [[nodiscard]] std::int64_t vocabulary_size() const { return 514; }
  [[nodiscard]] std::optional<std::int32_t> bos_id() const { return bos; }
  [[nodiscard]] std::optional<std::int32_t> eos_id() const { return eos; }
  [[nodiscard]] bool adds_bos() const { return adds; }
};

static_assert(offsite::Tokenizer<TinyTokenizer>);
