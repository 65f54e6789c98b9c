#pragma once
#include <Eigen/Core>

#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>

#include <span>
#include <utility>

#include "offsite/adapters/whole_blocks.hpp"
#include "offsite/aggregation/aggregation_policy.hpp"
#include "offsite/trainer/offer.hpp"
#include "offsite/trainer/trained_model.hpp"
#include "offsite/trainer/training_loop.hpp"

namespace offsite {

/// The client's half: trains the adapter blocks of an offer on its own data around the frozen emulator.
template <class Model, class Adapters = WholeBlocks, class Access = BlockAccess<Model>>
class Client {
  static_assert(BlockAccessor<Access, Model>);
  static_assert(CausalLm<Model>);
  static_assert(AdapterPolicy<Adapters>);

 public:
  /// \param compute  in which the model runs; trained values are float32 all the same
  /// \throws ArgumentError if the offer was made for another policy.
  explicit Client(Offer<Model> offer, at::ScalarType compute = at::kFloat, const Adapters& adapters = {})
      : compute_(compute),
        trained_(checked(offer, adapters), offer.plan.kept(),
                 TrainedParts::of(trained_blocks(adapters, offer.plan, false)), compute, adapters),
        received_(trained_.parameters().values().clone()) {}

  /// Trains on the samples. \throws ArgumentError, NumericError as `TrainingLoop` does.
  TrainingSummary train(std::span<const Sample> samples, const TrainingOptions& options,
                        TrainingHooks hooks = {}) {
    TrainingLoop loop(
        parameters(),
        [this](const PackedBatch& batch, std::int64_t scored, const Dropout& dropout) {
          return trained_.add_gradients(batch, scored, dropout);
        },
        samples, options, std::move(hooks), compute_);
    return loop.run();
  }

  /// Starts a round from the owner's values; AdamW starts anew.
  void receive(const Eigen::VectorXf& global) {
    // from_blob takes no const pointer; assign only reads.
    parameters().assign(at::from_blob(const_cast<float*>(global.data()), {global.size()}, at::kFloat));
    parameters().reset_optimizer();
    received_.copy_(parameters().values());
  }

  /// Adds an update to the values: the model as the client that returned it had it. \param delta  laid out as the values
  void apply(const Eigen::VectorXf& delta) {
    const at::Tensor change = at::from_blob(const_cast<float*>(delta.data()), {delta.size()}, at::kFloat);
    require(change.numel() == parameters().layout().size(),
            "an update of {} numbers was given, but {} are trained", change.numel(),
            parameters().layout().size());
    parameters().assign(parameters().values().add(change));
  }

  /// Trained minus received, float32, as the layout lays it. \param weight  number of samples trained on, > 0
  [[nodiscard]] ClientUpdate update(double weight) const {
    const at::Tensor delta = parameters().values().sub(received_);
    return {Eigen::Map<const Eigen::VectorXf>(delta.const_data_ptr<float>(), delta.numel()), weight};
  }

  [[nodiscard]] Model& model() { return trained_.model(); }  ///< the sub-model, as trained so far
  [[nodiscard]] TrainedModel<Model, Access>& trained() { return trained_; }
  [[nodiscard]] FlatParameters& parameters() { return trained_.parameters(); }
  [[nodiscard]] const FlatParameters& parameters() const { return trained_.parameters(); }

 private:
  static Model checked(Offer<Model>& offer, const Adapters& adapters) {
    require(offer.adapter_policy == policy_text(adapters),
            "the offer was made for the adapter policy '{}', but this client's is '{}'", offer.adapter_policy,
            policy_text(adapters));
    return std::move(offer.model);
  }

  at::ScalarType compute_;
  TrainedModel<Model, Access> trained_;
  at::Tensor received_;
};

}  // namespace offsite
