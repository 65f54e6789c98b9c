#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "offsite/blocks/block_access.hpp"
#include "offsite/core/error.hpp"
#include "offsite/data/rolling_windows.hpp"
#include "offsite/data/sample.hpp"
#include "offsite/eval/evaluation_options.hpp"
#include "offsite/eval/perplexity.hpp"

namespace offsite {

/// One number a token; none for the first, which nothing predicts.
using TokenScores = std::vector<std::optional<double>>;

/// The natural log-probability of each token of each line, given those before it.
///
/// A line of more than `options.context` + 1 tokens is scored in rolling windows: every token once, and each of the
/// last window, which reaches back as far as it can, with as much before it as fits. An empty line gives nothing.
/// \throws ArgumentError unless the context is given, or for a token outside the vocabulary; NumericError for NaN.
template <class Model, class Access = BlockAccess<Model>>
[[nodiscard]] std::vector<TokenScores> score_lines(Model& model,
                                                   std::span<const std::vector<std::int32_t>> lines,
                                                   const EvaluationOptions& options) {
  options.check();
  require(options.context > 0, "context is {}, but lines are cut into windows of the model's context",
          options.context);
  std::vector<TokenScores> result;
  std::vector<Sample> windows;
  for (const auto& line : lines) {
    for (auto& window : rolling_windows(line, std::nullopt, options.context)) {
      window.number = static_cast<std::int64_t>(result.size());
      windows.push_back(std::move(window));
    }
    result.emplace_back();
    result.back().reserve(line.size());
    if (!line.empty()) result.back().emplace_back();
  }
  const auto values = detail::score_tokens_of<Access>(model, windows, options);
  for (std::size_t w = 0; w < windows.size(); ++w) {
    auto& line = result[static_cast<std::size_t>(windows[w].number)];
    line.insert(line.end(), values[w].begin(), values[w].end());
  }
  return result;
}

}  // namespace offsite
