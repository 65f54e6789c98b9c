#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>

#include "offsite/core/parameter_layout.hpp"
#include "offsite/ops/adamw.hpp"
#include "offsite/trainer/training_options.hpp"

namespace offsite {

/// The trained numbers: one flat float32 vector of values, others of gradients and of AdamW's moments.
///
/// The model sees views of them. So a step is one norm and two fused AdamW calls (with and without weight decay),
/// and a client's update or a rank's shard is a slice. If the compute type is not float32, the model sees views of
/// a second vector of that type instead, refreshed in each step.
class FlatParameters {
 public:
  struct StepReport {
    double grad_norm = 0;  ///< before clipping
    bool applied = false;  ///< false: a gradient was not finite, and nothing changed
  };

  FlatParameters(ParameterLayout layout, at::ScalarType compute, const c10::Device& device = at::kCPU)
      : layout_(std::move(layout)) {
    require(layout_.size() > 0, "the adapter policy trains no tensor of the chosen blocks");
    for (auto* flat : {&values_, &gradients_, &first_moment_, &second_moment_})
      *flat = at::zeros({layout_.size()}, at::TensorOptions(device).dtype(at::kFloat));
    count_ = at::zeros({});
    compute_values_ = compute == at::kFloat
                          ? values_
                          : at::empty({layout_.size()}, at::TensorOptions(device).dtype(compute));
  }

  /// Copies `slot` in as the starting value of `tensor` and makes it a view of the compute values, with
  /// `grad()` a view of the gradients. \param autograd  the gradient comes from an autograd graph, so it must
  /// have the compute type
  void bind(const TrainedTensor& tensor, at::Tensor& slot, bool autograd) {
    view(values_, tensor).copy_(slot.detach());
    at::Tensor bound = view(compute_values_, tensor).detach();
    bound.copy_(slot.detach());
    const bool narrow = autograd && !compute_values_.is_same(values_);
    if (narrow && !compute_gradients_.defined())
      compute_gradients_ = at::zeros({layout_.size()}, compute_values_.options());
    bound.mutable_grad() = view(narrow ? compute_gradients_ : gradients_, tensor);
    bound.set_requires_grad(autograd);
    slot = bound;
  }

  void clear_gradients() { gradients_.zero_(); }

  /// Moves gradients that autograd left in the compute type to the float32 ones: once after each micro-batch,
  /// so that accumulation is in float32.
  void fold_gradients() {
    if (!compute_gradients_.defined()) return;
    gradients_.add_(compute_gradients_);
    compute_gradients_.zero_();
  }

  /// Adds the gradient of mu / 2 * ||values - anchor||^2, FedProx's proximal term (Li et al., arXiv:1812.06127,
  /// equation 2). \param anchor  float32, laid out as the values
  void pull_towards(const at::Tensor& anchor, double mu) {
    // Subtracted first: exactly zero where values equal the anchor, so a first step is FedAvg's bit for bit.
    gradients_.add_(values_.sub(anchor), mu);
  }

  /// Clips, applies one AdamW step (decoupled decay) and leaves the gradients zero. Nothing is applied if the sum of the
  /// gradients' squares is not finite in float32, in which they become second moments.
  StepReport step(double learning_rate, const TrainingOptions& options) {
    const double squares = ops::squared_norm(gradients_), norm = std::sqrt(squares);
    if (!(squares <= std::numeric_limits<float>::max())) {
      clear_gradients();
      return {norm, false};
    }
    // The small constant is torch.nn.utils.clip_grad_norm_'s.
    const double excess = options.max_grad_norm > 0 ? (norm + 1e-6) / options.max_grad_norm : 0;
    count_.add_(1);
    const auto apply = [&](std::int64_t begin, std::int64_t n, double decay) {
      if (n == 0) return;
      const auto slice = [&](const at::Tensor& flat) { return flat.narrow(0, begin, n); };
      const bool copied = !compute_values_.is_same(values_);
      ops::adamw_({slice(values_), slice(gradients_), slice(first_moment_), slice(second_moment_),
                   copied ? slice(compute_values_) : at::Tensor()},
                  {.learning_rate = learning_rate,
                   .beta1 = options.adam_beta1,
                   .beta2 = options.adam_beta2,
                   .epsilon = options.adam_epsilon,
                   .weight_decay = decay,
                   .count = count_.item<double>(),
                   .divisor = std::max(1.0, excess)});
    };
    apply(0, layout_.decayed(), options.weight_decay);
    apply(layout_.decayed(), layout_.size() - layout_.decayed(), 0);
    return {norm, true};
  }

  /// Replaces all values (float32, layout().size() numbers).
  void assign(const at::Tensor& values) {
    require(values.numel() == layout_.size(), "{} values were given, but {} are trained", values.numel(),
            layout_.size());
    values_.copy_(values);
    refresh();
  }
  /// Puts AdamW back to its start.
  void reset_optimizer() {
    for (auto* flat : {&gradients_, &first_moment_, &second_moment_, &count_}) flat->zero_();
  }
  /// Makes the compute values follow the float32 ones.
  void refresh() {
    if (!compute_values_.is_same(values_)) compute_values_.copy_(values_);
  }

  [[nodiscard]] const ParameterLayout& layout() const { return layout_; }
  /// The type that the model sees.
  [[nodiscard]] at::ScalarType compute() const { return compute_values_.scalar_type(); }
  [[nodiscard]] const at::Tensor& values() const { return values_; }
  [[nodiscard]] const at::Tensor& gradients() const { return gradients_; }
  [[nodiscard]] const at::Tensor& first_moment() const { return first_moment_; }
  [[nodiscard]] const at::Tensor& second_moment() const { return second_moment_; }
  [[nodiscard]] const at::Tensor& step_count() const { return count_; }  ///< scalar float32

  /// The part of a flat vector that belongs to `tensor`, in its shape.
  [[nodiscard]] static at::Tensor view(const at::Tensor& flat, const TrainedTensor& tensor) {
    return flat.narrow(0, tensor.offset, tensor.numel).view(tensor.shape);
  }

 private:
  ParameterLayout layout_;
  at::Tensor values_, gradients_, first_moment_, second_moment_, count_;
  at::Tensor compute_values_,
      compute_gradients_;  // the same as values_ in float32; undefined unless autograd needs it
};

}  // namespace offsite
