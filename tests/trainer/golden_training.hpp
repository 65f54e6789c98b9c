#pragma once
// Include this before support/test.hpp.
#include <ATen/Parallel.h>

#include <cstdint>
#include <vector>

#include "offsite/data/sample.hpp"
#include "offsite/io/json.hpp"
#include "offsite/io/model_folder.hpp"
#include "offsite/models/gpt2.hpp"
#include "offsite/trainer/offsite_tuning.hpp"

#include "support/test.hpp"

/// The model and the samples of tests/golden/make_training.py.
namespace golden_training {

inline std::vector<offsite::Sample> samples() {
  std::vector<offsite::Sample> all;
  for (const auto& entry : offsite::read_json(support::golden("training/samples.json")))
    all.push_back({entry.at("tokens").get<std::vector<std::int32_t>>(),
                   entry.at("scored_from").get<std::int64_t>(), static_cast<std::int64_t>(all.size())});
  return all;
}

/// Six blocks.
inline offsite::Gpt2 model() { return offsite::load_model<offsite::Gpt2>(support::golden("training/model")); }

/// The reference's split: blocks 0, 1, 4 and 5 of the six, of which the first and the last train.
inline offsite::OffsiteOptions cut(at::ScalarType dtype = at::kFloat) {
  return {.bottom_blocks = 1, .top_blocks = 1, .emulator_blocks = 2, .dtype = dtype};
}

/// Runs with a number of threads, and puts it back at the end.
class Threads {
 public:
  explicit Threads(int count) : before_(at::get_num_threads()) { at::set_num_threads(count); }
  ~Threads() { at::set_num_threads(before_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_;
};

}  // namespace golden_training
