#include <memory>

#include "offsite/command_line.hpp"
#include "offsite/core/error.hpp"
#include "offsite/model_commands.hpp"

namespace program {

void add_evaluate_command(CLI::App& program) {
  auto* app = program.add_subcommand(
      "evaluate",
      "Accuracy, length-normalised accuracy, loss and perplexity of a model or an offer on a task");
  auto command = std::make_shared<EvaluateCommand>();
  auto* model = app->add_option("--model", command->model, "model folder")->type_name("DIR");
  add_peft_folder(*app, command->peft_folder);
  auto* offer = app->add_option("--offer", command->offer, "offer folder: scores the emulator")
                    ->type_name("DIR")
                    ->excludes(model);
  app->add_option("--update", command->update, "update folder: scores the emulator as tuned by it")
      ->type_name("DIR")
      ->needs(offer);
  app->add_option("--shared-from", command->shared_from,
                  "folder with the shared parameters that the offer leaves out")
      ->type_name("DIR")
      ->needs(offer);
  add_data(*app, command->data, true);
  app->add_option("--batch-tokens", command->batch_tokens, "tokens computed at a time")
      ->type_name("N")
      ->capture_default_str();
  app->add_option("--predictions", command->predictions,
                  "write each question's scores to this file, a JSON line each")
      ->type_name("FILE");
  add_common(*app, command->common);
  app->callback([command] {
    const auto& folder = command->offer.empty() ? command->model : command->offer;
    offsite::require(!folder.empty(), "--model or --offer is needed: what is to be evaluated");
    Session session("evaluate", command->common);
    commands_for(folder).evaluate(*command, session);
    session.finish();
  });
}

}  // namespace program
