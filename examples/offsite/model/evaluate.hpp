#pragma once
#include <memory>

#include "offsite/core/tensors.hpp"
#include "offsite/model/common.hpp"
#include "offsite/model/peft.hpp"
#include "offsite/report/json_lines.hpp"
#include "offsite/trainer/client.hpp"
#include "offsite/trainer/offer_folder.hpp"
#include "offsite/trainer/returned_update.hpp"

namespace program {

inline std::optional<Path> shared_folder(const Path& given) {
  return given.empty() ? std::nullopt : std::optional(given);
}

/// The emulator of an offer, as tuned by an update if one is given, in its own precision.
template <class Model>
Model load_emulator(const EvaluateCommand& command) {
  auto received = read_offer<Model>(command.offer, shared_folder(command.shared_from));
  if (command.update.empty()) return std::move(received.offer.model);
  const UpdateFolder update(command.update);
  update.check_made_for(received.split);
  Client<Model, PlacedAdapters> client(received.offer, at::kFloat, received.adapters);
  client.apply(client_update(update, client.parameters().layout()).delta);
  return client.model();
}

/// Scores a model, or an offer with or without an update, on a task.
template <class Model>
void run_evaluate(const EvaluateCommand& command, Session& session) {
  require(command.batch_tokens > 0, "--batch-tokens is {}, but it must be positive", command.batch_tokens);
  const auto& folder = command.offer.empty() ? command.model : command.offer;
  Model model = command.offer.empty() ? load_with_peft<Model>(command.model, command.peft_folder)
                                      : load_emulator<Model>(command);
  const auto& config = model.config;
  const auto tokenizer = tokenizer_for(folder, config.vocabulary_size());
  auto data = load_evaluation(session, command.data, tokenizer, config.context_length());
  data.batch_tokens = command.batch_tokens;
  model = cast_model<BlockAccess<Model>>(std::move(model),
                                         compute_type(session, Precision::kScoring, own_type(model)));
  std::unique_ptr<JsonLines> predictions;
  if (!command.predictions.empty()) {
    require(data.has_choices, "--predictions was given, but the task {} has no choices", command.data.task);
    writing([&] { predictions = std::make_unique<JsonLines>(command.predictions); });
  }
  const auto result = score(session, model, data, "evaluate");
  for (const auto& q : result.questions)
    if (predictions)
      writing([&] {
        predictions->write(Json::object({{"row", q.number},
                                         {"answer", q.answer},
                                         {"predicted", q.predicted},
                                         {"predicted_norm", q.predicted_norm},
                                         {"log_likelihoods", q.log_likelihoods}}));
      });
  auto table = score_table(command.data.task + ", " + std::to_string(result.scores.examples));
  table.add(
      score_cells(folder.filename().empty() ? folder.string() : folder.filename().string(), result.scores));
  std::fputs(table.text().c_str(), stdout);
  session.results["task"] = command.data.task;
  session.results["examples"] = result.scores.examples;
  put_scores(session.results, result.scores);
}

}  // namespace program
