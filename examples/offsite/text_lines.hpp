#pragma once
#include <string>
#include <vector>

#include "offsite/arguments.hpp"

namespace program {

/// The lines of a text file, which end at \n only; a last line need not have one.
/// \throws offsite::ArgumentError if the file cannot be read.
[[nodiscard]] std::vector<std::string> read_lines(const Path& file);

}  // namespace program
