#include <memory>

#include "offsite/command_line.hpp"
#include "offsite/model_commands.hpp"

namespace program {

void add_compare_command(CLI::App& program) {
  auto* app = program.add_subcommand(
      "compare",
      "The five rows of the paper's tables: full zero-shot, emulator zero-shot, emulator "
      "fine-tuned, plug-in, full fine-tuning");
  auto command = std::make_shared<CompareCommand>();
  app->add_option("--model", command->model, "model folder")->type_name("DIR")->required();
  add_peft_folder(*app, command->peft_folder);
  add_split(*app, command->split);
  add_data(*app, command->data, true);
  add_training(*app, command->training);
  app->get_option("--eval-data")->required();
  app->add_option("--full-learning-rate", command->full_learning_rate, "peak rate of full fine-tuning")
      ->type_name("N")
      ->capture_default_str();
  app->add_flag("--skip-full", command->skip_full, "leave out full fine-tuning");
  add_common(*app, command->common);
  app->callback([command] {
    Session session("compare", command->common);
    listen_for_interrupts();
    commands_for(command->model).compare(*command, session);
    session.finish();
  });
}

}  // namespace program
