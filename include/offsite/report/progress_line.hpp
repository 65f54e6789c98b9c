#pragma once
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "offsite/core/format.hpp"
#include "offsite/core/utf8.hpp"

namespace offsite {

/// Where a piece of long work stands.
struct ProgressState {
  std::string_view label = {};                             ///< what is being done: "train"
  std::string_view unit = "steps";                         ///< what `done` counts
  std::int64_t done = 0;                                   ///< finished so far
  std::int64_t total = 0;                                  ///< all there is; 0 = unknown
  double rate = 0;                                         ///< units a second; 0 = not known yet
  double loss = std::numeric_limits<double>::quiet_NaN();  ///< latest; NaN = none
  double tokens_per_second = 0;                            ///< 0 = not counted
  double seconds = 0;                                      ///< since the beginning
};

/// Seconds for people: "7s", "3:05", "2:03:05", "4d 02h"; "?" if unknown.
[[nodiscard]] inline std::string duration_text(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 1e9) return "?";
  const auto s = std::llround(seconds);
  if (s < 60) return formatted("{}s", s);
  if (s < 3600) return formatted("{}:{:02}", s / 60, s % 60);
  if (s < 86400) return formatted("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
  return formatted("{}d {:02}h", s / 86400, s / 3600 % 24);
}

/// A rate with three digits: "0.0123", "12.3", "1.23k", "45.6M".
[[nodiscard]] inline std::string rate_text(double rate) {
  if (!std::isfinite(rate) || rate < 0) return "?";
  std::string_view suffix;
  for (const std::string_view next : {"k", "M", "G"})
    if (rate >= 999.5) rate /= 1000, suffix = next;
  return fmt::format("{:.{}f}{}", rate,
                     rate >= 99.95    ? 0
                     : rate >= 9.995  ? 1
                     : rate >= 0.9995 ? 2
                                      : 4,
                     suffix);
}

namespace detail {

inline std::string progress_bar(double share, std::int64_t width) {
  const auto full = static_cast<std::size_t>(std::clamp(share, 0.0, 1.0) * static_cast<double>(width));
  return '[' + std::string(full, '#') + std::string(static_cast<std::size_t>(width) - full, '.') + ']';
}

}  // namespace detail

/// One line of progress without its end, at most `width` columns wide: bar shrinks first, then facts go.
/// `width` 0 gives the plain line without a bar.
[[nodiscard]] inline std::string progress_line(const ProgressState& state, std::int64_t width = 0) {
  const bool known = state.total > 0;
  const double share = known ? static_cast<double>(state.done) / static_cast<double>(state.total) : 0;
  std::vector<std::string> facts;  // the most important one first
  facts.push_back(known ? formatted("{}/{} {}", state.done, state.total, state.unit)
                        : formatted("{} {}", state.done, state.unit));
  if (!std::isnan(state.loss)) facts.push_back(formatted("loss {:.4g}", state.loss));
  if (known && state.done < state.total)
    facts.push_back(formatted(
        "{} left",
        state.rate > 0 ? duration_text(static_cast<double>(state.total - state.done) / state.rate) : "?"));
  else
    facts.push_back(duration_text(state.seconds));
  if (state.rate > 0) facts.push_back(formatted("{} {}/s", rate_text(state.rate), state.unit));
  if (state.tokens_per_second > 0)
    facts.push_back(formatted("{} tokens/s", rate_text(state.tokens_per_second)));

  std::string begin(state.label);
  if (known) begin += formatted("{}{:3.0f}%", begin.empty() ? "" : " ", std::floor(share * 100));
  const auto joined = [&](std::size_t count) {
    std::string text;
    for (std::size_t i = 0; i < count; ++i) text += (text.empty() ? "" : "  ") + facts[i];
    return text;
  };
  if (width <= 0) return begin.empty() ? joined(facts.size()) : begin + "  " + joined(facts.size());

  constexpr std::int64_t kShortestBar = 8, kLongestBar = 30;
  for (std::size_t count = facts.size(); count > 0; --count) {
    const auto text = joined(count);
    const auto free =
        width - display_width(std::string_view(begin)) - display_width(std::string_view(text)) - 5;
    if (known && free >= kShortestBar)
      return formatted("{} {}  {}", begin, detail::progress_bar(share, std::min(free, kLongestBar)), text);
    if ((!known || count == 1) && free >= -3) return begin.empty() ? text : formatted("{}  {}", begin, text);
  }
  return std::string(fit_width(begin.empty() ? facts[0] : begin, width));
}

}  // namespace offsite
