#include <memory>

#include "offsite/command_line.hpp"
#include "offsite/model_commands.hpp"

namespace program {

void add_inspect_command(CLI::App& program) {
  auto* app = program.add_subcommand("inspect", "What a model folder or an offer holds");
  auto command = std::make_shared<InspectCommand>();
  app->add_option("folder", command->folder, "model or offer folder")->type_name("DIR")->required();
  add_common(*app, command->common);
  app->callback([command] {
    Session session("inspect", command->common);
    const auto& commands = commands_for(command->folder);
    const bool offer = std::filesystem::exists(command->folder / "split.json");
    (offer ? commands.inspect_offer : commands.inspect_model)(*command, session);
    session.finish();
  });
}

}  // namespace program
