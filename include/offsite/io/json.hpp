#pragma once
#include <rapidjson/error/en.h>
#include <rapidjson/memorystream.h>
#include <rapidjson/reader.h>

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <iterator>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/core/utf8.hpp"
#include "offsite/io/atomic_file.hpp"
#include "offsite/io/json_value.hpp"
#include "offsite/io/mapped_file.hpp"

namespace offsite {

namespace detail {

/// Arrays and objects within each other that a file may open; far above any real file's.
inline constexpr std::size_t kJsonDepth = 128;

/// Builds a Json from the events of RapidJSON's reader; false ends the reading (at too great a depth).
class JsonBuilder {
 public:
  bool Null() { return add(nullptr); }
  bool Bool(bool value) { return add(value); }
  bool Int(int value) { return add(value); }
  bool Uint(unsigned value) { return add(value); }
  bool Int64(std::int64_t value) { return add(value); }
  bool Uint64(std::uint64_t value) { return add(value); }
  bool Double(double value) { return add(value); }
  bool String(const char* text, unsigned bytes, bool) { return add(checked({text, bytes})); }
  bool RawNumber(const char* text, unsigned bytes, bool) { return add(number({text, bytes})); }
  bool StartObject() { return open(); }
  bool Key(const char* text, unsigned bytes, bool) {
    keys_.push_back(checked({text, bytes}));
    return true;
  }
  bool EndObject(unsigned) {
    auto values = close();
    const auto first = keys_.end() - static_cast<std::ptrdiff_t>(values.size());
    std::vector<std::string> names(std::make_move_iterator(first), std::make_move_iterator(keys_.end()));
    keys_.erase(first, keys_.end());
    return add(Json::object(std::move(names), std::move(values)));
  }
  bool StartArray() { return open(); }
  bool EndArray(unsigned) { return add(close()); }

  [[nodiscard]] bool half_a_pair() const { return half_a_pair_; }  ///< a text with half a surrogate pair came
  [[nodiscard]] bool too_large() const { return too_large_; }      ///< a number that no double can hold came
  [[nodiscard]] bool too_deep() const { return levels_.size() > kJsonDepth; }
  [[nodiscard]] Json take() { return std::move(root_); }

 private:
  bool open() {
    levels_.emplace_back();
    return !too_deep();
  }
  std::vector<Json> close() {
    auto values = std::move(levels_.back());
    levels_.pop_back();
    return values;
  }
  bool add(Json value) {
    if (levels_.empty()) {
      root_ = std::move(value);
    } else {
      levels_.back().push_back(std::move(value));
    }
    return true;
  }
  /// RapidJSON checks what is written in UTF-8, but takes an escaped second half of a surrogate pair that has no first.
  std::string checked(std::string_view text) {
    for (auto at = text.find('\xed'); at < text.size() && !half_a_pair_; at = text.find('\xed', at + 1))
      half_a_pair_ = first_code_point(text.substr(at)).bytes == 0;
    return std::string(text);
  }
  /// Not by RapidJSON, which takes 0e40 for -2.4e229: it counts the leading zeros of a zero.
  Json number(std::string_view text) {
    const char* const end = text.data() + text.size();
    if (text.find_first_of(".eE") == text.npos) {
      std::int64_t whole = 0;
      std::uint64_t natural = 0;
      if (std::from_chars(text.data(), end, whole).ec == std::errc()) return whole;
      if (std::from_chars(text.data(), end, natural).ec == std::errc()) return natural;
    }
    double real = 0;
    if (std::from_chars(text.data(), end, real).ec == std::errc()) return real;
    // Out of range: too small for a double is 0, too large is refused.
    const auto exponent = text.find_first_of("eE");
    const bool small = exponent != text.npos ? text[exponent + 1] == '-' : text.find('.') != text.npos;
    too_large_ = too_large_ || !small;
    return 0.0;
  }

  bool half_a_pair_ = false;
  bool too_large_ = false;
  Json root_;
  std::vector<std::vector<Json>> levels_;  // values of the arrays and objects that are open
  std::vector<std::string> keys_;          // of the members of all open objects
};

}  // namespace detail

/// Parses one JSON value; `what` names the text in messages. A key that occurs twice keeps its last value.
/// \throws ProtocolError if the text is not JSON in UTF-8 or nests deeper than 128.
[[nodiscard]] inline Json parse_json(std::string_view text, std::string_view what) {
  constexpr unsigned kFlags = rapidjson::kParseNumbersAsStringsFlag | rapidjson::kParseValidateEncodingFlag |
                              rapidjson::kParseIterativeFlag;
  rapidjson::MemoryStream stream(text.data(), text.size());
  rapidjson::Reader reader;
  detail::JsonBuilder builder;
  const auto result = reader.Parse<kFlags>(stream, builder);
  require<ProtocolError>(!builder.too_deep(), "{} is refused: it nests deeper than {} levels", what,
                         detail::kJsonDepth);
  require<ProtocolError>(!result.IsError(), "{} is not valid JSON: {} (at byte {})", what,
                         rapidjson::GetParseError_En(result.Code()), result.Offset());
  require<ProtocolError>(!builder.half_a_pair(),
                         "{} is not valid JSON: a text in it holds half a surrogate pair", what);
  require<ProtocolError>(!builder.too_large(), "{} is refused: it holds a number larger than any double",
                         what);
  // The reader takes a zero byte for the text's end.
  require<ProtocolError>(stream.Tell() == text.size(), "{} is not valid JSON: a zero byte stands at byte {}",
                         what, stream.Tell());
  return builder.take();
}

/// Reads a file of one JSON value.
/// \throws ArgumentError if it cannot be read, ProtocolError naming it if it is not JSON.
[[nodiscard]] inline Json read_json(const std::filesystem::path& path) {
  const MappedFile file(path);
  return parse_json(file.text(), path.string());
}

/// Writes `value` indented by two blanks, all or nothing (see `write_file_atomically`).
/// \throws ArgumentError if a text in it is not UTF-8, or the file cannot be written.
inline void write_json(const std::filesystem::path& path, const Json& value) {
  std::string text;
  try {
    text = value.dump(2);
  } catch (const ArgumentError& error) {
    throw ArgumentError(formatted("cannot write {}: {}", path.string(), error.what()));
  }
  write_text_atomically(path, text + "\n");
}

}  // namespace offsite
