#pragma once
#include <Eigen/Core>

#include <ATen/core/Tensor.h>
#include <ATen/ops/eq.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/masked_fill.h>
#include <ATen/ops/sub.h>
#include <c10/core/GradMode.h>

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "offsite/adapters/whole_blocks.hpp"
#include "offsite/aggregation/aggregation_policy.hpp"
#include "offsite/core/process.hpp"
#include "offsite/trainer/offer.hpp"
#include "offsite/trainer/trained_model.hpp"

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
      : received_(trained_tensors(offer, adapters)),
        trained_(std::move(offer.model), offer.plan.kept(),
                 TrainedParts::of(trained_blocks(adapters, offer.plan, false)), compute, adapters) {
    for (const at::Tensor& tensor : received_)
      if (tensor.is_cpu() && tensor.is_contiguous())
        release_file_pages(tensor.const_data_ptr(), tensor.nbytes());
  }

  /// Trains on the samples. \throws ArgumentError, NumericError as `TrainingLoop` does.
  TrainingSummary train(std::span<const Sample> samples, const TrainingOptions& options,
                        TrainingHooks hooks = {}) {
    return trained_.train(samples, options, std::move(hooks));
  }

  /// Starts a round from the owner's values; AdamW starts anew.
  void receive(const Eigen::VectorXf& global) {
    // from_blob takes no const pointer; assign only reads.
    parameters().assign(at::from_blob(const_cast<float*>(global.data()), {global.size()}, at::kFloat));
    parameters().reset_optimizer();
    const at::Tensor values = parameters().values().clone();
    received_.clear();
    for (const auto& tensor : parameters().layout().tensors())
      received_.push_back(FlatParameters::view(values, tensor));
  }

  /// Adds an update to the values: the model as the client that returned it had it. \param delta  laid out as the values
  void apply(const Eigen::VectorXf& delta) {
    const at::Tensor change = at::from_blob(const_cast<float*>(delta.data()), {delta.size()}, at::kFloat);
    require(change.numel() == parameters().layout().size(),
            "an update of {} numbers was given, but {} are trained", change.numel(),
            parameters().layout().size());
    parameters().assign(parameters().values().add(change));
  }

  /// Trained minus received, float32, as the layout lays it; 0 where nothing changed, infinities included. \param weight
  /// number of samples trained on, > 0
  [[nodiscard]] ClientUpdate update(double weight) const {
    const c10::NoGradGuard no_grad;
    ClientUpdate update{Eigen::VectorXf(parameters().layout().size()), weight};
    const at::Tensor delta = at::from_blob(update.delta.data(), {update.delta.size()}, at::kFloat);
    delta.copy_(parameters().values());
    for (std::size_t i = 0; i < received_.size(); ++i) {
      const at::Tensor change = FlatParameters::view(delta, parameters().layout().tensors()[i]);
      const at::Tensor before = received_[i].to(at::kCPU, at::kFloat);
      const at::Tensor same = change.eq(before);
      change.sub_(before).masked_fill_(same, 0);
    }
    return update;
  }

  [[nodiscard]] Model& model() { return trained_.model(); }  ///< the sub-model, as trained so far
  [[nodiscard]] TrainedModel<Model, Access>& trained() { return trained_; }
  [[nodiscard]] FlatParameters& parameters() { return trained_.parameters(); }
  [[nodiscard]] const FlatParameters& parameters() const { return trained_.parameters(); }

 private:
  /// What will train, as offered: often in a mapped file, so that keeping it costs no memory.
  /// \throws ArgumentError if the offer was made for another policy.
  static std::vector<at::Tensor> trained_tensors(Offer<Model>& offer, const Adapters& adapters) {
    require(offer.adapter_policy == policy_text(adapters),
            "the offer was made for the adapter policy '{}', but this client's is '{}'", offer.adapter_policy,
            policy_text(adapters));
    std::vector<at::Tensor> tensors;
    detail::visit_trained<Access>(offer.model, offer.plan.kept(),
                                  TrainedParts::of(trained_blocks(adapters, offer.plan, false)), adapters,
                                  [&](const std::string&, const at::Tensor& tensor, bool, bool) {
                                    tensors.push_back(tensor.detach());
                                  });
    return tensors;
  }

  // What updates are measured from, in the layout's order: the offer's tensors, later the last round's.
  std::vector<at::Tensor> received_;
  TrainedModel<Model, Access> trained_;
};

}  // namespace offsite
