#pragma once
#include <fstream>
#include <iostream>
#include <iterator>

#include "offsite/eval/token_scores.hpp"
#include "offsite/model/common.hpp"
#include "offsite/model/peft.hpp"
#include "offsite/text_lines.hpp"

namespace program {

/// Writes the log-probability of each token of each line of a text, as JSON lines on standard output.
template <class Model>
void run_score(const ScoreCommand& command, Session& session) {
  Model model = load_with_peft<Model>(command.model, command.peft_folder);
  const auto tokenizer = tokenizer_for(command.model, model.config.vocabulary_size());
  model = cast_model<BlockAccess<Model>>(std::move(model),
                                         compute_type(session, Precision::kScoring, own_type(model)));
  std::vector<std::vector<std::int32_t>> lines;
  std::int64_t tokens = 0;
  for (const auto& line : read_lines(command.text)) {
    lines.push_back(tokenizer.encode(line));
    tokens += static_cast<std::int64_t>(lines.back().size());
  }
  Progress progress({.label = "score", .total = tokens, .unit = "tokens", .quiet = session.common().quiet});
  const auto scores = score_lines(
      model, lines,
      {.context = model.config.context_length(), .progress = [&](std::int64_t done, std::int64_t total) {
         progress.update({.done = total > 0 ? tokens * done / total : tokens});
       }});
  progress.finish();
  double sum = 0;
  std::int64_t scored = 0;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    Json logprobs = Json::array();
    for (const auto& value : scores[i]) {
      logprobs.push_back(value ? Json(*value) : Json());
      sum += value.value_or(0);
      scored += value ? 1 : 0;
    }
    std::cout << Json::object({{"ids", lines[i]}, {"logprobs", logprobs}}).dump() << '\n';
  }
  session.results["lines"] = lines.size();
  session.results["tokens"] = tokens;
  session.results["loss"] = scored > 0 ? Json(-sum / static_cast<double>(scored)) : Json();
}

}  // namespace program
