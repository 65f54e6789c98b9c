#pragma once
#include <filesystem>
#include <string_view>
#include <vector>

#include "offsite/core/utf8.hpp"
#include "offsite/data/read_rows.hpp"
#include "offsite/data/task.hpp"

namespace offsite {

/// SciQ: science questions with a supporting text (Welbl, Liu, Gardner, arXiv:1707.06209), as AI2's JSON
/// array or as JSON lines of `question, support, distractor1, distractor2, distractor3, correct_answer`.
///
/// The right answer is the last choice, as in lm-evaluation-harness; an empty support leaves its line break.
struct Sciq {
  static constexpr std::string_view kName = "sciq";
  static constexpr Scoring kScoring = Scoring::kMultipleChoice;

  [[nodiscard]] std::vector<Example> read(const std::filesystem::path& file,
                                          const RowRange& range = {}) const {
    return read_rows(file, range, [](const Row& row) {
      Example example;
      const auto support = strip_left(row.text("support"));
      example.prompt = formatted("{}\nQuestion: {}\nAnswer:", support, row.text("question"));
      for (const char* field : {"distractor1", "distractor2", "distractor3", "correct_answer"})
        example.choices.push_back(row.text(field));
      example.answer = 3;
      example.number = row.number();
      return example;
    });
  }
};

static_assert(Task<Sciq>);

}  // namespace offsite
