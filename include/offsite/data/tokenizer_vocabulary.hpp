#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/core/utf8.hpp"
#include "offsite/data/bpe_model.hpp"
#include "offsite/data/byte_alphabet.hpp"
#include "offsite/data/word_table.hpp"
#include "offsite/io/json_value.hpp"
#include "offsite/io/mapped_file.hpp"

namespace offsite::detail {

/// A text from a file for a message: cut to 40 columns.
inline std::string excerpt(std::string_view text) {
  const std::string_view begin = fit_width(text, 40);
  return formatted("\"{}{}\"", begin, begin.size() < text.size() ? "..." : "");
}

/// A token id in a file. \throws ProtocolError unless it is an integer from 0 to 2^31 - 1.
inline std::int32_t read_token_id(const Json& value, std::string_view file, std::string_view field) {
  constexpr auto kMax = std::numeric_limits<std::int32_t>::max();
  if (!value.holds<std::int32_t>() || value.get<std::int32_t>() < 0)
    throw ProtocolError(formatted("{}: {} is {}, but a token id is an integer from 0 to {}", file, field,
                                  excerpt(value.dump()), kMax));
  return value.get<std::int32_t>();
}

/// The vocabulary and merges of a BPE while its files are read.
class VocabularyReader {
 public:
  /// Takes a vocabulary `{token: id, ...}`, as in vocab.json and tokenizer.json's `model.vocab`.
  /// \throws ProtocolError naming `file` and `field`.
  VocabularyReader(const Json& vocabulary, std::string file, std::string_view field)
      : file_(std::move(file)) {
    require<ProtocolError>(vocabulary.is_object() && !vocabulary.empty(),
                           "{}: {} is not an object that gives each token its id", file_, field);
    ids_.reserve(vocabulary.size());
    for (const auto& [token, id] : vocabulary.items())
      ids_.emplace(token, read_token_id(id, file_, excerpt(token)));
  }

  /// Adds a token that is no product of merges, or finds that it is there. Comes after the merges.
  /// \throws ProtocolError if the vocabulary gives it another id.
  void add(const std::string& token, std::int32_t id, std::string_view file) {
    require<ProtocolError>(!token.empty(), "{}: the added token with the id {} has no text", file, id);
    const auto [found, is_new] = ids_.emplace(token, id);
    require<ProtocolError>(found->second == id, "{}: the added token {} has the id {}, but {} in {}", file,
                           excerpt(token), id, found->second, file_);
    specials_[token] = is_new;
  }

  /// The next merge rule. `unit` and `number` say where it stands in `file`.
  /// \throws ProtocolError if the two or what they make are not in the vocabulary.
  void add_merge(std::string_view left, std::string_view right, std::string_view file, std::string_view unit,
                 std::size_t number) {
    const auto id_of = [&](std::string_view token) {
      const auto found = ids_.find(token);
      require<ProtocolError>(found != ids_.end(), "{}: {} {}: {} is not in the vocabulary of {}", file, unit,
                             number, excerpt(token), file_);
      return found->second;
    };
    const std::string both = std::string(left) + std::string(right);
    parts_.merges.push_back({id_of(left), id_of(right), id_of(both)});
  }

  /// The next merge rule, written with one blank between the two.
  void add_merge(std::string_view rule, std::string_view file, std::string_view unit, std::size_t number) {
    const std::size_t blank = rule.find(' ');
    require<ProtocolError>(
        blank != rule.npos && 0 < blank && blank + 1 < rule.size() && rule.find(' ', blank + 1) == rule.npos,
        "{}: {} {}: a merge is two tokens with one blank between them, not {}", file, unit, number,
        excerpt(rule));
    add_merge(rule.substr(0, blank), rule.substr(blank + 1), file, unit, number);
  }

  [[nodiscard]] std::optional<std::int32_t> find(std::string_view token) const {
    const auto found = ids_.find(token);
    if (found == ids_.end()) return {};
    return found->second;
  }

  [[nodiscard]] std::int64_t size() const { return static_cast<std::int64_t>(ids_.size()); }

  /// The parts of a byte-level tokenizer as far as vocabulary and merges fill them; ends the reading.
  /// \throws ProtocolError if an id is given twice or the ids leave a hole.
  [[nodiscard]] BpeParts take() {
    for_each_by_id([&](std::size_t id, const std::string& token) {
      parts_.tokens[id] = token_of(token);
      if (parts_.tokens[id].learned && parts_.tokens[id].bytes.size() == 1)
        parts_.bytes[static_cast<unsigned char>(parts_.tokens[id].bytes[0])] = static_cast<std::int32_t>(id);
    });
    return std::move(parts_);
  }

  /// As `take`, for a tokenizer that merges characters. With `byte_fallback`, tokens such as "<0x0A>" are the bytes of
  /// characters that have no id. What a token decodes to is not filled in.
  [[nodiscard]] BpeParts take_by_character(bool byte_fallback) {
    parts_.by_character = true;
    parts_.spellings.resize(ids_.size());
    for_each_by_id([&](std::size_t id, const std::string& token) {
      const auto special = specials_.find(token);
      const bool only_added = special != specials_.end() && special->second != 0;
      parts_.tokens[id] = {.bytes = {}, .learned = !only_added};
      parts_.spellings[id] = token;
      const auto byte = byte_fallback && !only_added ? byte_of_token(token) : std::nullopt;
      if (byte) parts_.bytes[*byte] = static_cast<std::int32_t>(id);
    });
    return std::move(parts_);
  }

 private:
  template <class Use>
  void for_each_by_id(Use&& use) {
    parts_.tokens.resize(ids_.size());
    std::vector<const std::string*> owner(ids_.size());
    for (const auto& [token, id] : ids_) {
      // As many ids as tokens, each below their number and none twice: then there is no hole either.
      require<ProtocolError>(id < size(), "{}: {} has the id {}, but {} tokens have the ids 0 to {}", file_,
                             excerpt(token), id, size(), size() - 1);
      const auto index = static_cast<std::size_t>(id);
      if (owner[index] != nullptr) {
        const auto [first, second] = std::minmax(*owner[index], token);
        throw ProtocolError(
            formatted("{}: {} and {} have the same id {}", file_, excerpt(first), excerpt(second), id));
      }
      owner[index] = &token;
      use(index, token);
    }
  }

  BpeParts::Token token_of(const std::string& token) const {
    if (specials_.contains(token)) return {token, false};
    auto bytes = bytes_of_token(token);
    const bool learned = bytes.has_value();
    return {learned ? std::move(*bytes) : token, learned};
  }

  std::string file_;  // where the vocabulary stands
  StringMap ids_;
  StringMap specials_;  // 1 for those that the vocabulary itself lacks
  BpeParts parts_;
};

/// Reads merges.txt or vocab.bpe: a rule a line after a line `#version`.
/// \throws ProtocolError naming the line.
inline void read_merges(const std::filesystem::path& path, VocabularyReader& vocabulary) {
  const MappedFile file(path);
  std::string_view rest = file.text();
  for (std::size_t number = 1; !rest.empty(); ++number) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.starts_with("#version") || (line.empty() && rest.empty())) continue;
    require<ProtocolError>(find_invalid_utf8(line) == line.npos, "{}: line {} is not UTF-8", path.string(),
                           number);
    vocabulary.add_merge(line, path.string(), "line", number);
  }
}

}  // namespace offsite::detail
