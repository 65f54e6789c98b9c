#pragma once

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "offsite/core/error.hpp"

namespace offsite {

/// Which rows of a file are taken, in file order and before any shuffling.
struct RowRange {
  static constexpr std::int64_t kAll = std::numeric_limits<std::int64_t>::max();
  std::int64_t skip = 0;      ///< rows passed over at the beginning, >= 0
  std::int64_t limit = kAll;  ///< at most so many are taken after those, > 0
};

/// The text of one row and where it stands; lines and elements count from 1 for people, `number` from 0.
struct RowText {
  std::string_view text;
  std::int64_t number = 0;
  std::int64_t line = 1;
  bool in_array = false;

  [[nodiscard]] std::string place(const std::filesystem::path& file) const {
    if (in_array) return formatted("{}: element {} (line {})", file.string(), number + 1, line);
    return formatted("{}: line {}", file.string(), line);
  }
};

/// The whole file, without a byte order mark.
/// \throws ArgumentError if it is missing or cannot be read, ProtocolError if it is empty.
[[nodiscard]] inline std::string read_data_file(const std::filesystem::path& file) {
  std::error_code error;
  const auto status = std::filesystem::status(file, error);
  require(std::filesystem::exists(status), "the data file {} does not exist", file.string());
  require(!std::filesystem::is_directory(status), "the data file {} is a folder, but a file is needed",
          file.string());
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> stream(std::fopen(file.c_str(), "rb"), &std::fclose);
  require(stream != nullptr, "the data file {} cannot be read: {}", file.string(), std::strerror(errno));

  std::string text;
  // A pipe has no size: it grows as it is read.
  const auto size = std::filesystem::is_regular_file(status) ? std::filesystem::file_size(file, error) : 0;
  text.resize(std::max<std::size_t>(error ? 0 : size, 1 << 16));
  std::size_t filled = 0;
  while (const auto count = std::fread(text.data() + filled, 1, text.size() - filled, stream.get())) {
    filled += count;
    if (filled == text.size()) text.resize(2 * filled);
  }
  require(std::ferror(stream.get()) == 0, "the data file {} cannot be read: {}", file.string(),
          std::strerror(errno));
  text.resize(filled);
  if (text.starts_with("\xef\xbb\xbf")) text.erase(0, 3);
  require<ProtocolError>(text.find_first_not_of(" \t\r\n") != std::string::npos,
                         "the data file {} is empty: it has no rows", file.string());
  return text;
}

/// Checks that a range takes something of `count` rows.
/// \throws ArgumentError otherwise.
inline void check_range(const RowRange& range, std::int64_t count, const std::filesystem::path& file) {
  require(range.skip >= 0, "skip is {}, but a number of rows cannot be negative", range.skip);
  require(range.limit > 0, "limit is {}, but at least one row must be taken", range.limit);
  require(range.skip < count, "{} rows are to be skipped, but {} has only {}", range.skip, file.string(),
          count);
}

namespace detail {

inline constexpr std::string_view kJsonSpace = " \t\r\n";
inline constexpr std::int64_t kMaxDepth =
    64;  // deeper nesting is an attack on the parser's memory, not a data set

/// Collects the rows of a range as they come by.
class RowCollector {
 public:
  explicit RowCollector(const RowRange& range) : range_(range) {}
  void add(RowText row) {
    row.number = count_++;
    if (row.number >= range_.skip && row.number - range_.skip < range_.limit) rows.push_back(row);
  }
  [[nodiscard]] std::int64_t count() const { return count_; }

  std::vector<RowText> rows;

 private:
  RowRange range_;
  std::int64_t count_ = 0;
};

inline void check_depth(const RowText& row, const std::filesystem::path& file) {
  std::int64_t depth = 0;
  bool quoted = false;
  for (std::size_t i = 0; i < row.text.size(); ++i) {
    const char c = row.text[i];
    if (quoted) {
      if (c == '\\') ++i;
      if (c == '"') quoted = false;
    } else if (c == '"') {
      quoted = true;
    } else if (c == '{' || c == '[') {
      require<ProtocolError>(++depth <= kMaxDepth, "{}: JSON nested deeper than {} levels", row.place(file),
                             kMaxDepth);
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
}

inline void scan_lines(std::string_view text, RowCollector& collect) {
  for (std::int64_t line = 1; !text.empty(); ++line) {
    const auto end = std::min(text.find('\n'), text.size());
    const auto row = text.substr(0, end);
    if (row.find_first_not_of(kJsonSpace) != std::string_view::npos) collect.add({row, 0, line, false});
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

/// Walks over a JSON array and notes where each element begins and ends, without looking into them further.
class ArrayScanner {
 public:
  ArrayScanner(std::string_view text, const std::filesystem::path& file) : text_(text), file_(file) {}

  void scan(RowCollector& collect) {
    skip_space();
    ++at_;  // the opening bracket
    skip_space();
    if (peek() == ']') return finish();
    for (;;) {
      const RowText begin{text_.substr(at_), collect.count(), line_, true};
      const auto from = at_;
      skip_element(begin);
      auto row = begin;
      row.text = text_.substr(from, at_ - from);
      require<ProtocolError>(row.text.find_first_not_of(kJsonSpace) != std::string_view::npos,
                             "{}: broken JSON: a row is missing before '{}'", row.place(file_), peek());
      collect.add(row);
      const bool last = peek() == ']';
      if (last) return finish();
      ++at_;  // the comma
      skip_space();
    }
  }

 private:
  [[nodiscard]] char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  void advance() {
    if (text_[at_++] == '\n') ++line_;
  }

  void skip_space() {
    while (at_ < text_.size() && kJsonSpace.find(text_[at_]) != std::string_view::npos) advance();
  }

  /// Stops at the comma or bracket that ends the element.
  void skip_element(const RowText& begin) {
    std::int64_t depth = 0;
    for (; at_ < text_.size(); advance()) {
      const char c = text_[at_];
      if (c == '"') {
        skip_string();
        if (at_ == text_.size()) break;
      } else if (c == '{' || c == '[') {
        ++depth;
      } else if (depth == 0 && (c == ',' || c == ']')) {
        return;
      } else if (c == '}' || c == ']') {
        --depth;
      }
    }
    throw ProtocolError(formatted("{}: broken JSON: the file ends within the array", begin.place(file_)));
  }

  /// Stops at the closing quote.
  void skip_string() {
    for (advance(); at_ < text_.size() && text_[at_] != '"'; advance())
      if (text_[at_] == '\\' && at_ + 1 < text_.size()) advance();
  }

  void finish() {
    ++at_;  // the closing bracket
    skip_space();
    require<ProtocolError>(at_ == text_.size(),
                           "{}: line {}: broken JSON: something follows the end of the array", file_.string(),
                           line_);
  }

  std::string_view text_;
  const std::filesystem::path& file_;
  std::size_t at_ = 0;
  std::int64_t line_ = 1;
};

}  // namespace detail

/// Finds the rows of a range in the text of a file: the lines of JSON lines (blank ones do not count), or the
/// elements of a JSON array. Rows outside the range are passed over unread. O(bytes). \throws ProtocolError
/// if the array is broken, has no elements or nests too deep; ArgumentError if no row is left.
[[nodiscard]] inline std::vector<RowText> scan_rows(std::string_view text, const std::filesystem::path& file,
                                                    const RowRange& range = {}) {
  detail::RowCollector collect(range);
  const auto first = text.find_first_not_of(detail::kJsonSpace);
  if (first != std::string_view::npos && text[first] == '[')
    detail::ArrayScanner(text, file).scan(collect);
  else
    detail::scan_lines(text, collect);
  require<ProtocolError>(collect.count() > 0, "the data file {} is empty: it has no rows", file.string());
  check_range(range, collect.count(), file);
  for (const auto& row : collect.rows) detail::check_depth(row, file);
  return std::move(collect.rows);
}

}  // namespace offsite
