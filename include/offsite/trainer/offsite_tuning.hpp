#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "offsite/trainer/client.hpp"
#include "offsite/trainer/owner.hpp"

namespace offsite {

/// How a model is cut and in which type the client computes. All counts are in blocks.
struct OffsiteOptions {
  std::int64_t bottom_blocks = 2;              ///< trained blocks next to the embedding, >= 0
  std::int64_t top_blocks = 2;                 ///< trained blocks next to the head, >= 0
  std::int64_t emulator_blocks = 8;            ///< blocks of the middle that the client sees, > 0
  std::vector<std::int64_t> adapter_blocks{};  ///< if not empty: these blocks train instead of bottom and top
  at::ScalarType dtype = at::kFloat;  ///< compute type: float32 or bfloat16; trained values are float32

  [[nodiscard]] SplitOptions split() const {
    return {bottom_blocks, top_blocks, emulator_blocks, adapter_blocks};
  }
};

/// Offsite-Tuning of `Model` in one process (Xiao, Lin, Han, arXiv:2302.04870): the owner's half and a
/// client's.
///
/// `model` stays in its checkpoint's precision and is never written to. Where owner and client are apart,
/// each uses `Owner` or `Client` alone.
template <class Model, class Drop = UniformDrop, class Aggregation = FedAvg, class Adapters = WholeBlocks,
          class Access = BlockAccess<Model>>
class OffsiteTuning {
  static_assert(
      BlockAccessor<Access, Model>);  // here, not on the parameters: one error, with the remedy in it
  static_assert(CausalLm<Model>);
  static_assert(LayerDrop<Drop>);
  static_assert(AggregationPolicy<Aggregation>);
  static_assert(AdapterPolicy<Adapters>);

 public:
  /// \throws ArgumentError if the options do not fit the depth of `model`.
  explicit OffsiteTuning(Model model, const OffsiteOptions& options = {}, Drop drop = {},
                         Aggregation aggregation = {}, Adapters adapters = {})
      : owner_(std::move(model), options.split(), drop, std::move(aggregation), adapters),
        client_(owner_.offer(), options.dtype, adapters) {}

  /// Trains the adapters on the samples of one client.
  TrainingSummary train(std::span<const Sample> samples, const TrainingOptions& options,
                        TrainingHooks hooks = {}) {
    return client_.train(samples, options, std::move(hooks));
  }

  /// One federated round: every client trains from the same values on its own samples, and the updates,
  /// weighted by the number of samples, become the next global values.
  std::vector<TrainingSummary> round(std::span<const std::span<const Sample>> clients,
                                     const TrainingOptions& options) {
    std::vector<TrainingSummary> summaries;
    std::vector<ClientUpdate> updates;
    for (const auto samples : clients) {
      client_.receive(owner_.global());
      summaries.push_back(client_.train(samples, options));
      updates.push_back(client_.update(static_cast<double>(summaries.back().samples)));
    }
    aggregate(updates);
    return summaries;
  }

  /// What a client returns: trained minus received.
  [[nodiscard]] ClientUpdate update(double weight) const { return client_.update(weight); }

  /// Owner: takes updates into the global values, from which the client goes on.
  void aggregate(std::span<const ClientUpdate> updates) {
    owner_.aggregate(updates);
    client_.receive(owner_.global());
  }

  /// The whole model with the adapters as trained so far around its original middle, in its own precision:
  /// the same bits as if the update had gone through a file.
  [[nodiscard]] PlugIn<Model> plug_in() {
    Eigen::VectorXf values = owner_.global() + client_.update(1).delta;
    return owner_.plug_in_values(at::from_blob(values.data(), {values.size()}, at::kFloat));
  }

  [[nodiscard]] const SplitPlan& plan() const { return owner_.plan(); }
  [[nodiscard]] Owner<Model, Drop, Aggregation, Adapters, Access>& owner() { return owner_; }
  [[nodiscard]] Client<Model, Adapters, Access>& client() { return client_; }

 private:
  Owner<Model, Drop, Aggregation, Adapters, Access> owner_;
  Client<Model, Adapters, Access> client_;
};

}  // namespace offsite
