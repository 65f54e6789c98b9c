#include "offsite/eval/comparison.hpp"

#include <string>
#include <vector>

#include "support/test.hpp"  // last: see there

namespace comparison_test {

using namespace offsite;

TEST_CASE("compare: makes the rows in the papers' order and tells of each") {
  std::vector<std::string> made, told;
  const auto step = [&](const char* name, double accuracy) {
    return [&made, name, accuracy] {
      made.emplace_back(name);
      return Scores{.examples = 4, .accuracy = accuracy, .accuracy_norm = {}, .loss = 1};
    };
  };
  const auto result = compare({.full_zero_shot = step("full", 0.8),
                               .emulator_zero_shot = step("emulator", 0.6),
                               .emulator_fine_tuned = step("tuned", 0.7),
                               .plug_in = step("plugged", 0.95),
                               .full_fine_tuning = step("all", 0.9)},
                              [&](ComparisonRow row, const Scores& scores) {
                                told.emplace_back(row_name(row));
                                CHECK(scores.examples == 4);
                              });
  CHECK(made == std::vector<std::string>{"full", "emulator", "tuned", "plugged", "all"});
  CHECK(told == std::vector<std::string>{"full zero-shot", "emulator zero-shot", "emulator fine-tuned",
                                         "plug-in", "full fine-tuning"});
  CHECK(result.at(ComparisonRow::kPlugIn)->accuracy == 0.95);
  CHECK(*result.emulator_share() == doctest::Approx(0.75));
  CHECK(*result.plug_in_gain() == doctest::Approx(0.25));
}

TEST_CASE("compare: rows may be left out, and what needs them is then empty") {
  const auto score = [](double loss) { return [loss] { return Scores{.loss = loss}; }; };
  const auto result = compare({.full_zero_shot = score(1),
                               .emulator_zero_shot = {},
                               .emulator_fine_tuned = {},
                               .plug_in = score(2),
                               .full_fine_tuning = {}});
  CHECK(!result.at(ComparisonRow::kFullFineTuning));
  CHECK(!result.emulator_share());
  CHECK(!result.plug_in_gain());
}

TEST_CASE("Comparison: without accuracies, perplexities; a full model that is always wrong has no share") {
  Comparison c;
  c.at(ComparisonRow::kFullZeroShot) = Scores{.loss = 1};
  c.at(ComparisonRow::kEmulatorZeroShot) = Scores{.loss = 2};
  c.at(ComparisonRow::kEmulatorFineTuned) = Scores{.loss = 1.5};
  c.at(ComparisonRow::kPlugIn) = Scores{.loss = 1};
  CHECK(*c.emulator_share() == doctest::Approx(std::exp(-1.0)));
  CHECK(*c.plug_in_gain() == doctest::Approx(std::exp(1.5) - std::exp(1.0)));
  c.at(ComparisonRow::kFullZeroShot)->accuracy = 0;
  c.at(ComparisonRow::kEmulatorZeroShot)->accuracy = 0.5;
  CHECK(!c.emulator_share());
}

}  // namespace comparison_test
