#include "offsite/models/bloom.hpp"

#include "offsite/model/all_commands.hpp"

namespace program {

const ModelCommands bloom_commands = commands_of<offsite::Bloom>();

}  // namespace program
