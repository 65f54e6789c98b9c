#pragma once
#include <optional>

#include "offsite/emulator/disclosure_json.hpp"
#include "offsite/eval/comparison.hpp"
#include "offsite/model/common.hpp"
#include "offsite/model/peft.hpp"
#include "offsite/model/training.hpp"
#include "offsite/trainer/full_fine_tuning.hpp"
#include "offsite/trainer/offsite_tuning.hpp"

namespace program {

template <class Model>
Model& tuned_model(FullFineTuning<Model>& tuned) {
  return tuned.model();
}
template <class Model, class... Policies>
Model& tuned_model(OffsiteTuning<Model, Policies...>& tuned) {
  return tuned.client().model();
}

/// The five rows of the paper's tables on one model and task, and the disclosure report of the split.
template <class Model>
void run_compare(const CompareCommand& command, Session& session) {
  using Access = BlockAccess<Model>;
  const Model model = load_merged<Model>(command.model, command.peft_folder);
  const auto& config = model.config;
  const auto tokenizer = tokenizer_for(command.model, config.vocabulary_size());
  auto options = training_options(session.common(), command.training, config);
  auto held_out_data = command.data;
  held_out_data.data = command.training.eval_data;
  held_out_data.skip = 0;
  held_out_data.limit = command.training.eval_limit;
  const auto held_out = load_evaluation(session, held_out_data, tokenizer, config.context_length());
  const auto samples = load_training(session, command.data, tokenizer, config.context_length());
  const auto cut = cut_of(command.split, config.num_blocks());

  Model probe = model;
  const auto type = compute_type(session, Precision::kTraining, own_type(probe));
  OffsiteTuning tuner{model,
                      {.bottom_blocks = cut.options.bottom_blocks,
                       .top_blocks = cut.options.top_blocks,
                       .emulator_blocks = cut.options.emulator_blocks,
                       .adapter_blocks = cut.options.adapter_blocks,
                       .dtype = type},
                      cut.drop,
                      FedAvg{},
                      adapters_of(command.split.peft, session.common().seed)};
  Model offered = tuner.owner().offer().model;
  const auto disclosure = disclose<Access>(probe, offered, tuner.plan());
  for (const auto& line : disclosure.lines()) session.say(line);

  const auto scored = [&](Model& what, const std::string& label) {
    return score(session, what, held_out, label).scores;
  };
  const auto train = [&](auto& tuned, const TrainingOptions& how, const std::string& label) {
    TrainingReport report(session, label, command.training.log);
    const auto summary = tuned.train(
        samples, how,
        {.observers = {report.observer()},
         .evaluate = options.keep_best || options.early_stopping_patience > 0
                         ? std::function<EvaluationMetrics()>([&] {
                             return metrics_of(score(session, tuned_model(tuned), held_out).scores);
                           })
                         : std::function<EvaluationMetrics()>(),
         .interrupted = interrupted});
    report.finish();
    require<Error>(!summary.interrupted, "interrupted at step {} of training; nothing was written",
                   summary.steps);
  };

  ComparisonSteps steps;
  steps.full_zero_shot = [&] {
    Model full = cast_model<Access>(model, type);
    return scored(full, "full zero-shot");
  };
  steps.emulator_zero_shot = [&] { return scored(tuner.client().model(), "emulator zero-shot"); };
  steps.emulator_fine_tuned = [&] {
    train(tuner, options, "offsite tuning");
    return scored(tuner.client().model(), "emulator fine-tuned");
  };
  steps.plug_in = [&] {
    Model plugged = cast_model<Access>(tuner.plug_in().model, type);
    return scored(plugged, "plug-in");
  };
  if (!command.skip_full)
    steps.full_fine_tuning = [&] {
      auto full_options = options;
      full_options.learning_rate = command.full_learning_rate;
      FullFineTuning<Model> full(model, type);
      train(full, full_options, "full fine-tuning");
      return scored(full.model(), "full fine-tuning");
    };
  const Comparison comparison = compare(steps);

  auto table = score_table("model");
  auto& rows = session.results["rows"] = Json::array();
  for (const auto row : kComparisonRows)
    if (const auto& scores = comparison.at(row)) {
      table.add(score_cells(std::string(row_name(row)), *scores));
      auto json = Json::object({{"name", row_name(row)}});
      put_scores(json, *scores);
      rows.push_back(json);
    }
  std::fputs(table.text().c_str(), stdout);
  if (const auto share = comparison.emulator_share()) {
    std::printf("The emulator alone does %.0f %% of what the full model does without training.\n",
                100 * *share);
    session.results["emulator_share"] = *share;
  }
  if (const auto gain = comparison.plug_in_gain()) session.results["plug_in_gain"] = *gain;
  session.results["examples"] = held_out.size();
  session.results["disclosure"] = to_json(disclosure);
}

}  // namespace program
