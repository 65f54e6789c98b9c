#include "offsite/models/gpt_neox.hpp"

#include "offsite/model/all_commands.hpp"

namespace program {

const ModelCommands gpt_neox_commands = commands_of<offsite::GptNeox>();

}  // namespace program
