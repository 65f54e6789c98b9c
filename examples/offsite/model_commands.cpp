#include "offsite/model_commands.hpp"

#include <fmt/format.h>

#include <array>
#include <string>

#include "offsite/core/error.hpp"
#include "offsite/io/model_folder.hpp"
#include "offsite/io/safetensors_header.hpp"

namespace program {

const ModelCommands& commands_for(const Path& folder) {
  return commands_for_type(offsite::model_type_of(folder), folder.string());
}

const ModelCommands& commands_for_type(std::string_view type, const std::string& where) {
  static constexpr std::array<const ModelCommands*, 5> kAll{&gpt2_commands, &opt_commands, &bloom_commands,
                                                            &llama_commands, &gpt_neox_commands};
  std::string known;
  for (const auto* commands : kAll) {
    if (commands->reads(type)) return *commands;
    known += (known.empty() ? "" : ", ") + std::string(commands->model_types);
  }
  throw offsite::ArgumentError(fmt::format("{} holds a model of type {}, but this program knows {}", where,
                                           offsite::detail::shown(type), known));
}

}  // namespace program
