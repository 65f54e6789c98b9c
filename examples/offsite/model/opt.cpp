#include "offsite/models/opt.hpp"

#include "offsite/model/all_commands.hpp"

namespace program {

const ModelCommands opt_commands = commands_of<offsite::Opt>();

}  // namespace program
