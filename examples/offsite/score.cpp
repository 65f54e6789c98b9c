#include <memory>

#include "offsite/command_line.hpp"
#include "offsite/model_commands.hpp"

namespace program {

void add_score_command(CLI::App& program) {
  auto* app =
      program.add_subcommand("score", "Log-probability of each token of each line of a text, as JSON lines");
  auto command = std::make_shared<ScoreCommand>();
  app->add_option("--model", command->model, "model folder")->type_name("DIR")->required();
  add_peft_folder(*app, command->peft_folder);
  app->add_option("--text", command->text, "text file; each line is scored by itself")
      ->type_name("FILE")
      ->required();
  add_common(*app, command->common);
  app->callback([command] {
    Session session("score", command->common);
    commands_for(command->model).score(*command, session);
    session.finish();
  });
}

}  // namespace program
