#pragma once
#include <cmath>
#include <cstdint>
#include <optional>

namespace offsite {

/// What an evaluation found.
struct Scores {
  std::int64_t examples = 0;              ///< questions, completions or windows of text
  std::int64_t scored_tokens = 0;         ///< that the loss is a mean of
  std::optional<double> accuracy{};       ///< 0..1, where there are choices
  std::optional<double> accuracy_norm{};  ///< the same by log-likelihoods divided by the choices' lengths
  double loss = 0;                        ///< nats a scored token; with choices, of the right ones

  [[nodiscard]] double perplexity() const { return std::exp(loss); }

  friend bool operator==(const Scores&, const Scores&) = default;
};

}  // namespace offsite
