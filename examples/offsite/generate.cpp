#include <memory>

#include "offsite/command_line.hpp"
#include "offsite/model_commands.hpp"

namespace program {

void add_generate_command(CLI::App& program) {
  auto* app = program.add_subcommand("generate", "Continue a text by the likeliest tokens");
  auto command = std::make_shared<GenerateCommand>();
  app->add_option("--model", command->model, "model folder")->type_name("DIR")->required();
  add_peft_folder(*app, command->peft_folder);
  app->add_option("--prompt", command->prompt, "text to continue")->type_name("TEXT")->required();
  app->add_option("--max-new-tokens", command->max_new_tokens, "tokens at most")
      ->type_name("N")
      ->capture_default_str();
  add_common(*app, command->common);
  app->callback([command] {
    Session session("generate", command->common);
    commands_for(command->model).generate(*command, session);
    session.finish();
  });
}

}  // namespace program
