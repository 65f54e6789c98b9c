#pragma once
#include <c10/core/GradMode.h>

#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "offsite/adapters/whole_blocks.hpp"
#include "offsite/trainer/trained_model.hpp"

namespace offsite {

/// Trains every parameter of a model: the ceiling that offsite tuning is compared with, and how small models
/// are pretrained.
template <class Model, class Access = BlockAccess<Model>>
class FullFineTuning {
  static_assert(BlockAccessor<Access, Model>);
  static_assert(CausalLm<Model>);

 public:
  explicit FullFineTuning(Model model, at::ScalarType compute = at::kFloat)
      : numbers_(all_blocks(model)),
        original_(model),
        trained_(std::move(model), numbers_, {numbers_, true}, compute, WholeBlocks{}) {}

  /// \throws ArgumentError, NumericError as `TrainingLoop` does.
  TrainingSummary train(std::span<const Sample> samples, const TrainingOptions& options,
                        TrainingHooks hooks = {}) {
    return trained_.train(samples, options, std::move(hooks));
  }

  /// The model as trained so far, in its own precision again, with tensors of its own.
  [[nodiscard]] Model result() const {
    const c10::NoGradGuard no_grad;
    Model model = Access::select(original_, numbers_);
    std::size_t next = 0;
    detail::visit_trained<Access>(model, numbers_, {numbers_, true}, WholeBlocks{},
                                  [&](const std::string&, at::Tensor& slot, bool, bool) {
                                    const auto& tensor = parameters().layout().tensors()[next++];
                                    slot = FlatParameters::view(parameters().values(), tensor)
                                               .to(slot.scalar_type(), /*non_blocking=*/false, /*copy=*/true);
                                  });
    return model;
  }

  [[nodiscard]] Model& model() { return trained_.model(); }  ///< in the compute type, as trained so far
  [[nodiscard]] FlatParameters& parameters() { return trained_.parameters(); }
  [[nodiscard]] const FlatParameters& parameters() const { return trained_.parameters(); }

 private:
  static std::vector<std::int64_t> all_blocks(const Model& model) {
    std::vector<std::int64_t> all(static_cast<std::size_t>(Access::num_blocks(model)));
    std::iota(all.begin(), all.end(), 0);
    return all;
  }

  std::vector<std::int64_t> numbers_;
  Model original_;
  TrainedModel<Model, Access> trained_;
};

}  // namespace offsite
