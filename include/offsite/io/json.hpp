#pragma once
#include <cstddef>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "offsite/core/error.hpp"
#include "offsite/io/atomic_file.hpp"
#include "offsite/io/mapped_file.hpp"

namespace offsite {

namespace detail {

/// Arrays and objects within each other that a file may open; far above any real file's.
inline constexpr std::size_t kJsonDepth = 128;

/// Whether `text` stays within kJsonDepth, seen before a parser builds anything. Brackets in strings do not
/// count.
[[nodiscard]] inline bool json_is_shallow(std::string_view text) {
  std::size_t depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;  // whatever it escapes, it does not end the string
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kJsonDepth) return false;
    } else if ((c == ']' || c == '}') && depth > 0) {
      --depth;
    }
  }
  return true;
}

/// The library's words without its error number, cut where it quotes a long stretch of the file.
[[nodiscard]] inline std::string json_reason(std::string_view what) {
  constexpr std::size_t kLongest = 300;
  if (const auto end = what.find("] "); what.starts_with("[json") && end != what.npos)
    what.remove_prefix(end + 2);
  return std::string(what.substr(0, kLongest)) + (what.size() > kLongest ? "..." : "");
}

}  // namespace detail

/// Parses one JSON value; `what` names the text in messages. A key that occurs twice keeps its last value.
/// \throws ProtocolError if the text is not JSON in UTF-8 or nests deeper than 128.
template <class Json = nlohmann::json>
[[nodiscard]] Json parse_json(std::string_view text, std::string_view what) {
  require<ProtocolError>(detail::json_is_shallow(text), "{} is refused: it nests deeper than {} levels", what,
                         detail::kJsonDepth);
  try {
    return Json::parse(text.begin(), text.end());
  } catch (const nlohmann::json::exception& error) {
    throw ProtocolError(fmt::format("{} is not valid JSON: {}", what, detail::json_reason(error.what())));
  }
}

/// Reads a file of one JSON value.
/// \throws ArgumentError if it cannot be read, ProtocolError naming it if it is not JSON.
template <class Json = nlohmann::json>
[[nodiscard]] Json read_json(const std::filesystem::path& path) {
  const MappedFile file(path);
  return parse_json<Json>(file.text(), path.string());
}

/// Writes `value` indented by two blanks, all or nothing (see `write_file_atomically`).
/// \throws ArgumentError if a text in it is not UTF-8, or the file cannot be written.
template <class Json>
void write_json(const std::filesystem::path& path, const Json& value) {
  std::string text;
  try {
    text = value.dump(2);
  } catch (const nlohmann::json::exception& error) {
    throw ArgumentError(fmt::format("cannot write {}: {}", path.string(), detail::json_reason(error.what())));
  }
  write_text_atomically(path, text + "\n");
}

}  // namespace offsite
