#pragma once
#include <algorithm>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "offsite/core/utf8.hpp"
#include "offsite/data/scan_rows.hpp"
#include "offsite/data/task.hpp"

namespace offsite {

/// Plain text: the lines of a range joined to one document, of which every token is scored once in rolling
/// windows.
///
/// Rows are lines here, ending at \n only; empty ones count.
struct Text {
  static constexpr std::string_view kName = "text";
  static constexpr Scoring kScoring = Scoring::kText;

  [[nodiscard]] std::vector<Example> read(const std::filesystem::path& file,
                                          const RowRange& range = {}) const {
    const auto text = read_data_file(file);
    std::string_view rest = text;
    std::size_t begin = 0, end = text.size();
    std::int64_t line = 0;
    for (; !rest.empty(); ++line) {
      const auto at = text.size() - rest.size();
      if (line == range.skip) begin = at;
      if (line > range.skip && line - range.skip == range.limit) end = at;
      const auto length = std::min(rest.find('\n'), rest.size() - 1) + 1;
      const auto invalid = find_invalid_utf8(rest.substr(0, length));
      require<ProtocolError>(invalid == std::string_view::npos,
                             "{}: line {}: invalid UTF-8 at byte {} of the line", file.string(), line + 1,
                             invalid + 1);
      rest.remove_prefix(length);
    }
    check_range(range, line, file);
    Example example;
    example.completion = text.substr(begin, end - begin);
    example.number = range.skip;
    return {std::move(example)};
  }
};

static_assert(Task<Text>);

}  // namespace offsite
