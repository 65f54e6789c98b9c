#include <memory>

#include "offsite/command_line.hpp"
#include "offsite/model_commands.hpp"

namespace program {

void add_train_command(CLI::App& program) {
  auto* app = program.add_subcommand(
      "train", "Client: train an offer's adapters on data of one's own, and write the update");
  auto command = std::make_shared<TrainCommand>();
  app->add_option("--offer", command->offer, "offer folder")->type_name("DIR")->required();
  app->add_option("--shared-from", command->shared_from,
                  "folder with the shared parameters that the offer leaves out")
      ->type_name("DIR");
  add_data(*app, command->data, true);
  add_training(*app, command->training);
  add_memory(*app, command->training);
  add_out(*app, command->out, "update folder to write", true);
  add_common(*app, command->common);
  app->callback([command] {
    Session session("train", command->common);
    check_out(command->out);
    listen_for_interrupts();
    commands_for(command->offer).train(*command, session);
    session.finish();
  });
}

}  // namespace program
