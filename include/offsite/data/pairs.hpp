#pragma once
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "offsite/core/utf8.hpp"
#include "offsite/data/read_rows.hpp"
#include "offsite/data/task.hpp"
#include "offsite/data/template_text.hpp"

namespace offsite {

/// A prompt and what should follow it, from JSON lines `prompt, completion` or from any fields by templates.
///
/// One space joins the two, unless white space stands there already or the prompt is empty.
struct Pairs {
  static constexpr std::string_view kName = "pairs";
  static constexpr Scoring kScoring = Scoring::kCompletion;

  TemplateText prompt{"{prompt}"};
  TemplateText completion{"{completion}"};

  [[nodiscard]] std::vector<Example> read(const std::filesystem::path& file,
                                          const RowRange& range = {}) const {
    return read_rows(file, range, [this](const Row& row) {
      const auto value_of = [&row](const std::string& field) { return row.printed(field); };
      Example example;
      example.prompt = prompt.fill(value_of);
      example.completion = completion.fill(value_of);
      const bool joined = example.prompt.empty() ||
                          strip_right(example.prompt).size() < example.prompt.size() ||
                          strip_left(example.completion).size() < example.completion.size();
      if (!joined) example.completion.insert(0, 1, ' ');
      example.number = row.number();
      return example;
    });
  }
};

static_assert(Task<Pairs>);

}  // namespace offsite
