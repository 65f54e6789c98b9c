// Where does a client's training step go? Prints the budget of its processor time, its products, page faults and memory.
//   step_profile MODEL [type=bfloat16] [batch=16] [steps=10] [warm=3] [vary=0] [threads=2] [data=DIR]
//                      [bottom=2] [emulator=4] [top=2] [arena=1] [rate=0] [json=0] [from=0]
//                      [recompute=0] [cache=0] [epochs=0] [device=cpu]
// MODEL is a model folder, or one of shapes.hpp with random weights: gpt2-small, gpt2-xl, opt-350m, llama-350m. `data` holds
// sciq/train.json and tokenizers/gpt2: the samples' lengths come from there, beginning at sample `from`. vary=1 gives
// every step other samples, and so other lengths; arena=0 leaves the allocator as it is; rate=1 watches nothing and
// prints one line of JSON, as the peers do; json=1 prints the budget as one. recompute: every so many-th block is computed
// again; cache: MB to keep what lies below the first trained block in; epochs=3 with vary=1 and rate=1 trains on the same
// samples so often and prints the first one's time and the others'. device: where the model's tensors are put; the library
// itself trains on the CPU alone so far.
#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include "common.hpp"
#include "offsite/core/tensor_arena.hpp"
#include "offsite/io/model_folder.hpp"
#include "step_profile/families.hpp"
#include "step_profile/shapes.hpp"

int main(int argc, char** argv) {
  using namespace bench;
  try {
    const Arguments arguments(argc, argv,
                              {{"model", ""},
                               {"type", "bfloat16"},
                               {"batch", "16"},
                               {"steps", "10"},
                               {"warm", "3"},
                               {"vary", "0"},
                               {"threads", "2"},
                               {"data", ""},
                               {"bottom", "2"},
                               {"emulator", "4"},
                               {"top", "2"},
                               {"arena", "1"},
                               {"rate", "0"},
                               {"json", "0"},
                               {"from", "0"},
                               {"recompute", "0"},
                               {"cache", "0"},
                               {"epochs", "0"},
                               {"device", "cpu"}});
    const auto& model = arguments.text("model");
    offsite::require(!model.empty(),
                     "step_profile wants a model folder or the name of a shape; see the head of its file");
    if (arguments.number("arena") != 0) {  // as the program does
      offsite::keep_freed_memory();
      offsite::keep_few_products();
      offsite::TensorArena::install();
    }
    if (arguments.number("rate") == 0) watch_allocations();
    at::globalContext().setFlushDenormal(true);
    at::set_num_threads(static_cast<int>(arguments.number("threads")));
    const auto* shape = shape_named(model);
    const auto type = shape != nullptr ? std::string(shape->model_type) : offsite::model_type_of(model);
    for (const auto* family : kFamilies)
      if (family->reads(type)) {
        family->profile(arguments);
        return 0;
      }
    offsite::require(false, "{} is of model type {}, which is not known", model, type);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
