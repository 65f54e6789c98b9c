#pragma once
#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/data/sample.hpp"

namespace offsite {

/// Windows of at most `max_length` rows that together score every token of a document once.
///
/// The first window's first token is predicted from `prefix`; without one it is context only. The last window
/// reaches back as far as it can, so its tokens see as much context as the others'. As
/// lm-evaluation-harness's `get_rolling_token_windows` with a context of one token. The windows' numbers
/// count from 0. \throws ArgumentError unless max_length > 0.
[[nodiscard]] inline std::vector<Sample> rolling_windows(std::span<const std::int32_t> document,
                                                         std::optional<std::int32_t> prefix,
                                                         std::int64_t max_length) {
  require(max_length > 0, "max_length is {}, but a window needs at least one row", max_length);
  const auto size = static_cast<std::int64_t>(document.size());
  const auto from = [&](std::int64_t begin, std::int64_t end) {
    return std::vector<std::int32_t>(document.begin() + begin, document.begin() + end);
  };
  std::vector<Sample> windows;
  std::int64_t scored = 0;
  if (prefix && size > 0) {
    scored = std::min(max_length, size);
    Sample first{from(0, scored), 1, 0};
    first.tokens.insert(first.tokens.begin(), *prefix);
    windows.push_back(std::move(first));
  } else if (size > 0) {
    scored = 1;
  }
  while (scored < size) {
    const auto end = scored + std::min(max_length, size - scored);
    const auto begin = std::max<std::int64_t>(end - max_length - 1, 0);
    windows.push_back({from(begin, end), scored - begin, static_cast<std::int64_t>(windows.size())});
    scored = end;
  }
  return windows;
}

}  // namespace offsite
