#pragma once
#include <string>
#include <vector>

namespace program {

/// The command line with the options of its `--config` file put in, where the command line does not give them itself.
///
/// The file is TOML: keys are option names without the dashes (`learning-rate` or `learning_rate`), at its top for
/// every subcommand, or in a table with the subcommand's name for it alone.
/// \throws offsite::ArgumentError if the file cannot be read, offsite::ProtocolError if it is not TOML.
[[nodiscard]] std::vector<std::string> with_config_file(std::vector<std::string> words);

}  // namespace program
