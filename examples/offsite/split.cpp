#include <memory>

#include "offsite/command_line.hpp"
#include "offsite/model_commands.hpp"

namespace program {

void add_split_command(CLI::App& program) {
  auto* app = program.add_subcommand(
      "split", "Owner: cut a model and write the offer for clients, with a report of what it discloses");
  auto command = std::make_shared<SplitCommand>();
  app->add_option("--model", command->model, "model folder")->type_name("DIR")->required();
  add_split(*app, command->split);
  add_out(*app, command->out, "offer folder to write", false);
  app->add_option(
         "--share", command->share,
         "shared parameters that go along, by their full names; without it all of them; none = none. What is "
         "left out the client must bring")
      ->type_name("NAME,...")
      ->delimiter(',');
  app->add_option("--max-verbatim", command->max_verbatim,
                  "refuse an offer that holds more than this share of the parameters as they are (0 to 1; 1 "
                  "also lets a "
                  "rebuildable model out)")
      ->type_name("SHARE");
  app->add_option(
         "--max-emulator-score", command->max_emulator_score,
         "refuse an offer whose emulator alone is more accurate than this (0 to 1; needs --task and --data)")
      ->type_name("SCORE");
  add_data(*app, command->data, false);
  app->get_option("--task")->needs(app->get_option("--data"));
  app->get_option("--data")->needs(app->get_option("--task"));
  add_common(*app, command->common);
  app->callback([command] {
    Session session("split", command->common);
    check_out(command->out);
    commands_for(command->model).split(*command, session);
    session.finish();
  });
}

}  // namespace program
