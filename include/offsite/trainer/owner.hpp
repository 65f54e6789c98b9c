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
#include "offsite/trainer/merged_mean.hpp"
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
        attached_(select_all(model_)),
        plan_(plan_split(Access::num_blocks(model_), options, drop)),
        aggregation_(std::move(aggregation)),
        adapters_(std::move(adapters)) {
    read_adapters();
  }

  /// With a plan made before, as an offer's split specification holds it.
  /// \throws ArgumentError if it was made for another depth.
  Owner(Model model, SplitPlan plan, Aggregation aggregation = {}, Adapters adapters = {})
      : model_(std::move(model)),
        attached_(select_all(model_)),
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
  [[nodiscard]] Offer<Model> offer() const {
    return {plan_, Access::select(attached_, plan_.kept()), policy_text(adapters_)};
  }

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
    return offsite::plug_in<Access>(attached_, plan_, layout_, adapters_, values);
  }
  /// The whole model with the mean of the clients' changes, their factors merged first: see `plug_in_merged_mean`.
  /// Takes nothing into the global values. \throws ArgumentError as `check_updates` does.
  [[nodiscard]] PlugIn<Model> plug_in_merged_mean(std::span<const ClientUpdate> updates) const {
    return offsite::plug_in_merged_mean<Access>(attached_, plan_, layout_, adapters_, global_, updates);
  }
  /// The whole model with the modules that the policy adds beside its weights, not merged into them.
  [[nodiscard]] PlugIn<Model> plug_in_unmerged() {
    return offsite::plug_in<Access>(attached_, plan_, layout_, adapters_, values(), /*merge=*/false);
  }

 private:
  /// Adds the policy's modules, lays out the trained tensors and reads their values.
  void read_adapters() {
    std::vector<std::int64_t> all(static_cast<std::size_t>(plan_.depth));
    std::iota(all.begin(), all.end(), 0);
    const auto blocks = trained_blocks(adapters_, plan_, true);
    attach_modules<Access>(attached_, all, blocks, adapters_);
    const auto parts = TrainedParts::of(blocks);
    layout_ = layout_of<Access>(attached_, all, parts, adapters_);
    global_.resize(layout_.size());
    std::size_t next = 0;
    detail::visit_trained<Access>(
        attached_, all, parts, adapters_, [&](const std::string&, const at::Tensor& tensor, bool, bool) {
          FlatParameters::view(values(), layout_.tensors()[next++]).copy_(tensor.detach());
        });
  }
  [[nodiscard]] at::Tensor values() { return at::from_blob(global_.data(), {global_.size()}, at::kFloat); }

  static Model select_all(const Model& model) {
    std::vector<std::int64_t> all(static_cast<std::size_t>(Access::num_blocks(model)));
    std::iota(all.begin(), all.end(), 0);
    return Access::select(model, all);
  }

  Model model_, attached_;  // as given, and with the policy's modules; they share their tensors
  SplitPlan plan_;
  Aggregation aggregation_;
  typename Aggregation::State state_{};
  Adapters adapters_;
  ParameterLayout layout_;
  Eigen::VectorXf global_;
};

}  // namespace offsite
