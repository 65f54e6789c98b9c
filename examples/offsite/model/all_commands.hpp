#pragma once
#include "offsite/model/compare.hpp"
#include "offsite/model/evaluate.hpp"
#include "offsite/model/generate.hpp"
#include "offsite/model/inspect.hpp"
#include "offsite/model/plug_in.hpp"
#include "offsite/model/score.hpp"
#include "offsite/model/split.hpp"
#include "offsite/model/train.hpp"
#include "offsite/model_commands.hpp"

namespace program {

/// The table of one model family.
template <class Model>
constexpr ModelCommands commands_of() {
  return {Model::kModelType, run_split<Model>,   run_inspect_offer<Model>, run_inspect_model<Model>,
          run_train<Model>,  run_plug_in<Model>, run_evaluate<Model>,      run_compare<Model>,
          run_score<Model>,  run_generate<Model>};
}

}  // namespace program
