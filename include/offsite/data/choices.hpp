#pragma once
#include <filesystem>
#include <string_view>
#include <vector>

#include "offsite/data/read_rows.hpp"
#include "offsite/data/task.hpp"

namespace offsite {

/// Multiple choice from JSON lines `question, choices, answer` (index from 0) with an optional `context`.
struct Choices {
  static constexpr std::string_view kName = "choices";
  static constexpr Scoring kScoring = Scoring::kMultipleChoice;

  [[nodiscard]] std::vector<Example> read(const std::filesystem::path& file,
                                          const RowRange& range = {}) const {
    return read_rows(file, range, [](const Row& row) {
      Example example;
      if (const auto context = row.optional_text("context"); context && !context->empty())
        example.prompt = *context + "\n";
      example.prompt += formatted("Question: {}\nAnswer:", row.text("question"));
      example.choices = row.texts("choices");
      example.answer = row.index("answer", example.choices.size());
      example.number = row.number();
      return example;
    });
  }
};

static_assert(Task<Choices>);

}  // namespace offsite
