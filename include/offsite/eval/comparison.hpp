#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>

#include "offsite/eval/scores.hpp"

namespace offsite {

/// The rows of the papers' tables, in their order.
enum class ComparisonRow : std::uint8_t {
  kFullZeroShot,
  kEmulatorZeroShot,
  kEmulatorFineTuned,
  kPlugIn,
  kFullFineTuning,
};

inline constexpr std::array kComparisonRows{ComparisonRow::kFullZeroShot, ComparisonRow::kEmulatorZeroShot,
                                            ComparisonRow::kEmulatorFineTuned, ComparisonRow::kPlugIn,
                                            ComparisonRow::kFullFineTuning};

[[nodiscard]] constexpr std::string_view row_name(ComparisonRow row) {
  constexpr std::array<std::string_view, kComparisonRows.size()> names{
      "full zero-shot", "emulator zero-shot", "emulator fine-tuned", "plug-in", "full fine-tuning"};
  return names[static_cast<std::size_t>(row)];
}

/// Scores of one model in its five states, on the same data; a row that was not made is empty.
struct Comparison {
  std::array<std::optional<Scores>, kComparisonRows.size()> rows;

  [[nodiscard]] const std::optional<Scores>& at(ComparisonRow row) const {
    return rows[static_cast<std::size_t>(row)];
  }
  [[nodiscard]] std::optional<Scores>& at(ComparisonRow row) { return rows[static_cast<std::size_t>(row)]; }

  /// How well the emulator alone does what the full model does, both before training: the ratio of their accuracies
  /// (LLEOT's CPL), or of the full model's perplexity to the emulator's. 1 = as well; empty without both rows.
  [[nodiscard]] std::optional<double> emulator_share() const {
    const auto &full = at(ComparisonRow::kFullZeroShot), &emulator = at(ComparisonRow::kEmulatorZeroShot);
    if (!full || !emulator) return std::nullopt;
    if (!full->accuracy || !emulator->accuracy) return full->perplexity() / emulator->perplexity();
    if (*full->accuracy == 0) return std::nullopt;
    return *emulator->accuracy / *full->accuracy;
  }

  /// What plugging in adds to the tuned emulator: the difference of their accuracies (GradOT's Delta),
  /// or of the emulator's perplexity and the plug-in's. Positive = better; empty without both rows.
  [[nodiscard]] std::optional<double> plug_in_gain() const {
    const auto &plug_in = at(ComparisonRow::kPlugIn), &emulator = at(ComparisonRow::kEmulatorFineTuned);
    if (!plug_in || !emulator) return std::nullopt;
    if (!plug_in->accuracy || !emulator->accuracy) return emulator->perplexity() - plug_in->perplexity();
    return *plug_in->accuracy - *emulator->accuracy;
  }
};

/// How each row is made: a callable that prepares the model in that state and scores it; empty = the row is left out.
///
/// They are called in the order of the rows, so that one may build on what an earlier one made.
struct ComparisonSteps {
  std::function<Scores()> full_zero_shot, emulator_zero_shot, emulator_fine_tuned, plug_in, full_fine_tuning;
};

/// Makes the rows one after another. \param on_row  if given, told of each as soon as it is there
[[nodiscard]] inline Comparison compare(
    const ComparisonSteps& steps, const std::function<void(ComparisonRow, const Scores&)>& on_row = {}) {
  const std::array<const std::function<Scores()>*, kComparisonRows.size()> in_order{
      &steps.full_zero_shot, &steps.emulator_zero_shot, &steps.emulator_fine_tuned, &steps.plug_in,
      &steps.full_fine_tuning};
  Comparison result;
  for (const auto row : kComparisonRows) {
    const auto& step = *in_order[static_cast<std::size_t>(row)];
    if (!step) continue;
    result.at(row) = step();
    if (on_row) on_row(row, *result.at(row));
  }
  return result;
}

}  // namespace offsite
