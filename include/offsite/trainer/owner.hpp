#pragma once
#include <Eigen/Core>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <cstdint>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "offsite/adapters/whole_blocks.hpp"
#include "offsite/aggregation/fed_avg.hpp"
#include "offsite/emulator/split_plan.hpp"
#include "offsite/emulator/uniform_drop.hpp"
#include "offsite/trainer/offer.hpp"
#include "offsite/trainer/plug_in.hpp"

namespace offsite {

/// The owner's half: cuts the model, hands out the offer, aggregates what clients return, plugs it in.
///
/// The model's tensors are never written to.
template <class Model, class Drop = UniformDrop, class Aggregation = FedAvg, class Adapters = WholeBlocks,
          class Access = BlockAccess<Model>>
class Owner {
  static_assert(
      BlockAccessor<Access, Model>);  // here, not on the parameters: one error, with the remedy in it
  static_assert(CausalLm<Model>);
  static_assert(LayerDrop<Drop>);
  static_assert(AggregationPolicy<Aggregation>);
  static_assert(AdapterPolicy<Adapters>);

 public:
  /// \throws ArgumentError if the options do not fit the depth of `model`.
  explicit Owner(Model model, const SplitOptions& options = {}, const Drop& drop = {},
                 Aggregation aggregation = {}, Adapters adapters = {})
      : model_(std::move(model)),
        plan_(plan_split(Access::num_blocks(model_), options, drop)),
        aggregation_(std::move(aggregation)),
        adapters_(std::move(adapters)) {
    read_adapters();
  }

  /// With a plan made before, as an offer's split specification holds it.
  /// \throws ArgumentError if it was made for another depth.
  Owner(Model model, SplitPlan plan, Aggregation aggregation = {}, Adapters adapters = {})
      : model_(std::move(model)),
        plan_(std::move(plan)),
        aggregation_(std::move(aggregation)),
        adapters_(std::move(adapters)) {
    require(plan_.depth == Access::num_blocks(model_),
            "the split was made of {} blocks, but the model has {}", plan_.depth, Access::num_blocks(model_));
    read_adapters();
  }

  [[nodiscard]] const SplitPlan& plan() const { return plan_; }
  [[nodiscard]] const ParameterLayout& layout() const { return layout_; }
  [[nodiscard]] Model& model() { return model_; }

  /// The blocks that a client gets, sharing the model's tensors.
  [[nodiscard]] Offer<Model> offer() const { return {plan_, Access::select(model_, plan_.kept())}; }

  /// The adapters' values now: what the next round starts from.
  [[nodiscard]] const Eigen::VectorXf& global() const { return global_; }

  /// Takes the clients' updates of one round into the global values. \throws ArgumentError as the policy
  /// does.
  void aggregate(std::span<const ClientUpdate> updates) {
    global_ = aggregation_.aggregate(global_, updates, state_);
  }

  /// The whole model with the global adapters around its original middle.
  [[nodiscard]] PlugIn<Model> plug_in() { return plug_in_values(values()); }
  /// The same with other values, which are not kept (flat float32).
  [[nodiscard]] PlugIn<Model> plug_in_values(const at::Tensor& values) const {
    return offsite::plug_in<Access>(model_, plan_, layout_, adapters_, values);
  }

 private:
  /// Lays out the trained tensors and reads their values.
  void read_adapters() {
    std::vector<std::int64_t> all(static_cast<std::size_t>(plan_.depth));
    std::iota(all.begin(), all.end(), 0);
    const TrainedParts parts{plan_.adapters, false};
    layout_ = layout_of<Access>(model_, all, parts, adapters_);
    global_.resize(layout_.size());
    std::size_t next = 0;
    detail::visit_trained<Access>(
        model_, all, parts, adapters_, [&](const std::string&, const at::Tensor& tensor, bool, bool) {
          FlatParameters::view(values(), layout_.tensors()[next++]).copy_(tensor.detach());
        });
  }
  [[nodiscard]] at::Tensor values() { return at::from_blob(global_.data(), {global_.size()}, at::kFloat); }

  Model model_;
  SplitPlan plan_;
  Aggregation aggregation_;
  typename Aggregation::State state_{};
  Adapters adapters_;
  ParameterLayout layout_;
  Eigen::VectorXf global_;
};

}  // namespace offsite
