#pragma once
#include <string>
#include <string_view>

#include "offsite/arguments.hpp"
#include "offsite/runs/sides.hpp"
#include "offsite/session.hpp"

namespace program {

/// What the program does with models of one family. Each family's table is made in a translation unit of its own,
/// which alone knows the model's type.
struct ModelCommands {
  std::string_view model_types;               ///< what `config.json` may call them, for messages
  bool (*reads)(std::string_view) = nullptr;  ///< whether a `model_type` is of the family
  void (*split)(const SplitCommand&, Session&);
  void (*inspect_offer)(const InspectCommand&, Session&);
  void (*inspect_model)(const InspectCommand&, Session&);
  void (*train)(const TrainCommand&, Session&);
  void (*plug_in)(const PlugInCommand&, Session&);
  void (*evaluate)(const EvaluateCommand&, Session&);
  void (*compare)(const CompareCommand&, Session&);
  void (*score)(const ScoreCommand&, Session&);
  void (*generate)(const GenerateCommand&, Session&);
  OwnerSide (*serving_side)(const ServeCommand&, Session&);
  ClientSide (*client_side)(const JoinCommand&, Session&, const offsite::federation::Welcome&,
                            const ViewBlob&);
  SimulatedSides (*simulated_sides)(const SimulateCommand&, Session&);
};

extern const ModelCommands bloom_commands;
extern const ModelCommands gpt2_commands;
extern const ModelCommands gpt_neox_commands;
extern const ModelCommands llama_commands;
extern const ModelCommands opt_commands;

/// The commands for the model that a folder holds.
/// \throws offsite::ArgumentError if there is no such folder, or no family of ours reads it.
[[nodiscard]] const ModelCommands& commands_for(const Path& folder);
/// The same by the model's type. \param where  it was found, for messages
[[nodiscard]] const ModelCommands& commands_for_type(std::string_view type, const std::string& where);

}  // namespace program
