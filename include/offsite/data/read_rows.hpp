#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/core/utf8.hpp"
#include "offsite/data/scan_rows.hpp"
#include "offsite/io/json.hpp"

namespace offsite {

/// One row of a data file: a JSON object that knows its place, so that a complaint names file, row and field.
class Row {
 public:
  /// \throws ProtocolError if the text is no JSON object.
  Row(const RowText& source, const std::filesystem::path& file)
      : place_(source.place(file)), number_(source.number) {
    const auto invalid = find_invalid_utf8(source.text);
    require<ProtocolError>(invalid == std::string_view::npos, "{}: invalid UTF-8 at byte {} of the row",
                           place_, invalid + 1);
    fields_ = parse_json(source.text, place_ + ": the row");
    require<ProtocolError>(fields_.is_object(), "{}: a row is a JSON object, but here stands a JSON {}",
                           place_, fields_.type_name());
  }

  /// Number of the row in its file, from 0.
  [[nodiscard]] std::int64_t number() const { return number_; }
  [[nodiscard]] bool has(const std::string& field) const { return fields_.contains(field); }

  /// The text of a field. \throws ProtocolError if it is missing or no string.
  [[nodiscard]] const std::string& text(const std::string& field) const {
    return typed(field, at(field), "a string").text();
  }

  /// The text of a field that may be missing or null. \throws ProtocolError if it is something else.
  [[nodiscard]] std::optional<std::string> optional_text(const std::string& field) const {
    if (!has(field) || fields_.at(field).is_null()) return std::nullopt;
    return text(field);
  }

  /// A string as it is, a number as it is written in JSON. \throws ProtocolError if it is missing or neither.
  [[nodiscard]] std::string printed(const std::string& field) const {
    const auto& value = at(field);
    return value.is_number() ? value.dump() : typed(field, value, "a string").get<std::string>();
  }

  /// A list of strings, not empty. \throws ProtocolError if the field is missing or something else.
  [[nodiscard]] std::vector<std::string> texts(const std::string& field) const {
    const auto& list = at(field);
    require<ProtocolError>(list.is_array(), "{}: field '{}' is a JSON {}, but a list of strings is needed",
                           place_, field, list.type_name());
    require<ProtocolError>(
        !list.empty(), "{}: field '{}' is an empty list, but at least one string is needed", place_, field);
    std::vector<std::string> result;
    result.reserve(list.size());
    for (const auto& value : list)
      result.push_back(
          typed(formatted("{}[{}]", field, result.size()), value, "a string").get<std::string>());
    return result;
  }

  /// A whole number in [0, count): the index of one of `count` choices.
  /// \throws ProtocolError if the field is missing, no whole number or out of range.
  [[nodiscard]] std::int64_t index(const std::string& field, std::size_t count) const {
    const auto& value = at(field);
    require<ProtocolError>(value.is_integer(), "{}: field '{}' is a JSON {}, but a whole number is needed",
                           place_, field, value.is_number() ? "fraction" : value.type_name());
    require<ProtocolError>(value.holds<std::uint64_t>() && value.get<std::uint64_t>() < count,
                           "{}: field '{}' is {}, but there are {} choices, numbered from 0", place_, field,
                           value.dump(), count);
    return value.get<std::int64_t>();
  }

 private:
  const Json& at(const std::string& field) const {
    const auto* found = fields_.find(field);
    if (found == nullptr) {
      std::string names;
      for (const auto& item : fields_.items())
        names += formatted("{}'{}'", names.empty() ? "" : ", ", item.name);
      throw ProtocolError(formatted("{}: field '{}' is missing; the row has {}", place_, field,
                                    names.empty() ? "no fields" : fit_width(names, 200)));
    }
    return *found;
  }

  const Json& typed(const std::string& field, const Json& value, std::string_view needed) const {
    require<ProtocolError>(value.is_string(), "{}: field '{}' is a JSON {}, but {} is needed", place_, field,
                           value.type_name(), needed);
    return value;
  }

  std::string place_;
  std::int64_t number_;
  Json fields_;
};

/// What `example` makes of each chosen row of a JSON-lines file or of a JSON array of objects, in file order.
/// \throws ArgumentError if the file cannot be read or the range leaves no row of it, ProtocolError for a bad
/// file.
template <class MakeExample>
[[nodiscard]] auto read_rows(const std::filesystem::path& file, const RowRange& range,
                             const MakeExample& example) {
  const auto text = read_data_file(file);
  const auto rows = scan_rows(text, file, range);
  std::vector<decltype(example(std::declval<const Row&>()))> result;
  result.reserve(rows.size());
  for (const auto& row : rows) result.push_back(example(Row(row, file)));
  return result;
}

}  // namespace offsite
