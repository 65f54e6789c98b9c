#include <memory>

#include "offsite/command_line.hpp"
#include "offsite/model_commands.hpp"

namespace program {

void add_plug_in_command(CLI::App& program) {
  auto* app = program.add_subcommand(
      "plug-in", "Owner: put trained adapters around the original middle, and write a model folder");
  auto command = std::make_shared<PlugInCommand>();
  app->add_option("--model", command->model, "model folder that the offer was made from")
      ->type_name("DIR")
      ->required();
  app->add_option("--update", command->updates, "update folder; several are aggregated first")
      ->type_name("DIR")
      ->required();
  app->add_option("--aggregate", command->aggregate,
                  "how several updates become one: fedavg, fedprox, fedavgm, fedadam, fedyogi, fedadagrad, "
                  "trimmed_mean, "
                  "coordinate_median, geometric_median, krum, multi_krum or bulyan, with settings such as "
                  "norm:10+trimmed_mean:0.1; or merged: the mean of what clients' LoRA factors come to, "
                  "which the mean "
                  "of factors is not")
      ->type_name("NAME")
      ->capture_default_str();
  app->add_option("--as", command->as,
                  "merged: a whole model; peft: the modules alone, as a folder for --peft-folder, and for "
                  "PEFT if they are LoRA's; bottlenecks can be written in no other way")
      ->type_name("FORM")
      ->check(CLI::IsMember({"merged", "peft"}))
      ->capture_default_str();
  add_out(*app, command->out, "folder to write", false);
  add_common(*app, command->common);
  app->get_option("--dtype")->description(
      "type of the tensors written: auto (as in the checkpoint), float32 or bfloat16");
  app->callback([command] {
    Session session("plug-in", command->common);
    check_out(command->out);
    commands_for(command->model).plug_in(*command, session);
    session.finish();
  });
}

}  // namespace program
