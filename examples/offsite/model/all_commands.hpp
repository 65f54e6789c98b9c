#pragma once
#include "offsite/model/compare.hpp"
#include "offsite/model/evaluate.hpp"
#include "offsite/model/generate.hpp"
#include "offsite/model/inspect.hpp"
#include "offsite/model/plug_in.hpp"
#include "offsite/model/runs.hpp"
#include "offsite/model/score.hpp"
#include "offsite/model/split.hpp"
#include "offsite/model/train.hpp"
#include "offsite/model_commands.hpp"

namespace program {

/// The model types that a family reads, as text.
template <class Model>
constexpr std::string_view model_types_of() {
  if constexpr (requires { Model::kModelTypes; })
    return Model::kModelTypes;
  else
    return Model::kModelType;
}

/// The table of one model family.
template <class Model>
constexpr ModelCommands commands_of() {
  return {model_types_of<Model>(),  offsite::reads_model_type<Model>,
          run_split<Model>,         run_inspect_offer<Model>,
          run_inspect_model<Model>, run_train<Model>,
          run_plug_in<Model>,       run_evaluate<Model>,
          run_compare<Model>,       run_score<Model>,
          run_generate<Model>,      serving_side<Model>,
          client_side<Model>,       simulated_sides<Model>};
}

}  // namespace program
