// The one translation unit that knows the Llama family.
#include "offsite/models/llama.hpp"

#include "offsite/model/all_commands.hpp"

namespace program {

const ModelCommands llama_commands = commands_of<offsite::Llama>();

}  // namespace program
