#pragma once
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/core/utf8.hpp"

namespace offsite {

/// One cell of a table: a text, or a number, which goes to the right of its column.
struct Cell {
  std::string text;
  bool number = false;

  template <class T>
  requires std::convertible_to<T, std::string_view> Cell(const T& value)
      : text(std::string_view(value)) {}  // NOLINT: a row is written as a list of plain values

  template <std::integral T>
  Cell(T value) : text(formatted("{}", value)), number(true) {}  // NOLINT

  /// A number with so many digits after the point; what was not measured (NaN) is a dash.
  Cell(double value, int digits)
      : text(std::isnan(value) ? "-" : fmt::format("{:.{}f}", value, digits)), number(true) {}
};

/// A table for people: columns aligned by what a terminal shows, numbers to the right, a line under the head.
class Table {
 public:
  explicit Table(std::vector<std::string> head) : head_(std::move(head)) {}

  /// \throws ArgumentError unless there is one cell a column.
  void add(std::vector<Cell> row) {
    require(row.size() == head_.size(), "a row of {} cells does not fit a table of {} columns", row.size(),
            head_.size());
    rows_.push_back(std::move(row));
  }

  [[nodiscard]] std::string text() const {
    std::vector<std::int64_t> widths;
    std::vector<bool> right;
    for (std::size_t c = 0; c < head_.size(); ++c) {
      widths.push_back(display_width(std::string_view(head_[c])));
      for (const auto& row : rows_)
        widths[c] = std::max(widths[c], display_width(std::string_view(row[c].text)));
      right.push_back(!rows_.empty() && std::all_of(rows_.begin(), rows_.end(),
                                                    [c](const auto& row) { return row[c].number; }));
    }
    std::vector<Cell> head(head_.begin(), head_.end());
    for (std::size_t c = 0; c < head.size(); ++c) head[c].number = right[c];
    std::vector<Cell> rule;
    for (const auto width : widths) rule.emplace_back(std::string(static_cast<std::size_t>(width), '-'));

    std::string result = line(head, widths) + line(rule, widths);
    for (const auto& row : rows_) result += line(row, widths);
    return result;
  }

 private:
  static std::string line(const std::vector<Cell>& row, const std::vector<std::int64_t>& widths) {
    std::string result;
    for (std::size_t c = 0; c < row.size(); ++c) {
      const auto free = static_cast<std::size_t>(widths[c] - display_width(std::string_view(row[c].text)));
      if (c > 0) result += "  ";
      if (row[c].number) result.append(free, ' ');
      result += row[c].text;
      if (!row[c].number) result.append(free, ' ');
    }
    result.erase(result.find_last_not_of(' ') + 1);
    return result + '\n';
  }

  std::vector<std::string> head_;
  std::vector<std::vector<Cell>> rows_;
};

}  // namespace offsite
