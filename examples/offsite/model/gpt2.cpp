// The one translation unit that knows GPT-2: another family is another file like this.
#include "offsite/models/gpt2.hpp"

#include "offsite/model/all_commands.hpp"

namespace program {

const ModelCommands gpt2_commands = commands_of<offsite::Gpt2>();

}  // namespace program
