#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "offsite/adapters/adapter_policy.hpp"
#include "offsite/blocks/visit_linears.hpp"
#include "offsite/core/process.hpp"
#include "offsite/data/packed_batch.hpp"
#include "offsite/models/causal_lm.hpp"
#include "offsite/ops/cross_entropy.hpp"
#include "offsite/trainer/block_tape.hpp"
#include "offsite/trainer/flat_parameters.hpp"
#include "offsite/trainer/prefix_cache.hpp"
#include "offsite/trainer/training_loop.hpp"

namespace offsite {

/// What of a model trains.
struct TrainedParts {
  std::vector<std::int64_t> places;  ///< places of the trained blocks in the model at hand, ascending
  bool shared = false;               ///< embeddings, final norm and head train too
  std::vector<BlockRole> roles{};    ///< one a place; empty = all are bottom blocks

  [[nodiscard]] BlockRole role(std::size_t i) const {
    return roles.empty() ? BlockRole::kBottom : roles.at(i);
  }

  /// The blocks that a policy trains, and nothing shared.
  [[nodiscard]] static TrainedParts of(TrainedBlocks blocks) {
    return {std::move(blocks.places), false, std::move(blocks.roles)};
  }
};

namespace detail {

/// Whether a parameter outside the blocks decays: embeddings and norms never do, others if the model says so.
template <class Model>
bool shared_decays(std::string_view name) {
  if constexpr (requires { Model::decays(name); })
    return Model::decays(name);
  else
    return false;
}

/// Calls f(full name, tensor&, decays, shared) for every trained parameter, in the order that the layout
/// keeps.
template <class Access, class Model, class Adapters, class F>
void visit_trained(Model& model, const std::vector<std::int64_t>& numbers, const TrainedParts& parts,
                   const Adapters& adapters, F&& f) {
  if (parts.shared)
    model.visit_shared([&](std::string_view name, at::Tensor& tensor) {
      f(std::string(name), tensor, shared_decays<Model>(name), true);
    });
  for (std::size_t i = 0; i < parts.places.size(); ++i) {
    const auto place = parts.places[i];
    const auto& policy = policy_at(adapters, parts.role(i));
    const auto prefix = block_prefix<Access>(numbers.at(static_cast<std::size_t>(place)));
    Access::visit(Access::block(model, place), [&](std::string_view name, at::Tensor& tensor) {
      if (policy.trains(name, tensor)) f(prefix + std::string(name), tensor, tensor.dim() > 1, false);
    });
  }
}

/// Calls f(tensor&) for every parameter of the model.
template <class Access, class Model, class F>
void visit_all(Model& model, F&& f) {
  const auto each = [&](std::string_view, at::Tensor& tensor) { f(tensor); };
  model.visit_shared(each);
  for (std::int64_t i = 0; i < Access::num_blocks(model); ++i) Access::visit(Access::block(model, i), each);
}

}  // namespace detail

/// Which tensors of `model` train and where they lie. \param numbers  the full model's number of each of its
/// blocks
template <class Access, class Model, class Adapters>
[[nodiscard]] ParameterLayout layout_of(Model& model, const std::vector<std::int64_t>& numbers,
                                        const TrainedParts& parts, const Adapters& adapters) {
  std::vector<TrainedTensor> tensors;
  detail::visit_trained<Access>(model, numbers, parts, adapters,
                                [&](std::string name, const at::Tensor& tensor, bool decays, bool) {
                                  tensors.push_back({std::move(name), tensor.sizes().vec(), 0, 0, decays});
                                });
  return ParameterLayout(std::move(tensors));
}

/// A model made ready to train: its trained tensors are views of flat vectors, all others are in the compute
/// type and shared with whoever else holds them. The part of training that depends on the model's type.
template <class Model, class Access = BlockAccess<Model>>
class TrainedModel {
 public:
  /// \param model    in its checkpoint's own precision: trained tensors start from it exactly
  /// \param numbers  the full model's number of each of its blocks
  template <AdapterPolicy Adapters>
  TrainedModel(Model model, const std::vector<std::int64_t>& numbers, const TrainedParts& parts,
               at::ScalarType compute, const Adapters& adapters)
      : model_(std::move(model)),
        parameters_(layout_of<Access>(model_, numbers, parts, adapters), compute, device_of(model_)),
        trains_shared_(parts.shared) {
    const c10::NoGradGuard no_grad;
    plan_.trained.assign(numbers.size(), false);
    for (const auto place : parts.places) plan_.trained.at(static_cast<std::size_t>(place)) = true;
    plan_.input_gradient = trains_shared_;
    for (const auto place : parts.places)
      visit_linears<Access>(Access::block(model_, place), [&](std::string_view, const Linear& layer) {
        plan_.module_dropout =
            plan_.module_dropout || layer.low_rank.dropout.rate > 0 || layer.bottleneck.dropout.rate > 0;
      });

    // A tensor trains if and only if its grad() is defined, so first nothing may have one.
    detail::visit_all<Access>(model_, [](at::Tensor& tensor) { tensor = tensor.detach(); });
    std::size_t next = 0;
    detail::visit_trained<Access>(
        model_, numbers, parts, adapters, [&](const std::string&, at::Tensor& slot, bool, bool shared) {
          const bool hand = shared ? HandWrittenShared<Model> : HandWrittenBackward<Access>;
          parameters_.bind(parameters_.layout().tensors()[next++], slot, !hand);
        });
    detail::visit_all<Access>(model_, [&](at::Tensor& tensor) {
      if (tensor.grad().defined()) return;
      const at::Tensor converted = tensor.to(compute);
      if (!converted.is_same(tensor) && tensor.is_cpu() && tensor.is_contiguous())
        release_file_pages(tensor.const_data_ptr(), tensor.nbytes());
      tensor = converted;
    });
  }

  // The model's tensors are views of the vectors: a copy would share them.
  TrainedModel(const TrainedModel&) = delete;
  TrainedModel& operator=(const TrainedModel&) = delete;
  TrainedModel(TrainedModel&&) noexcept = default;
  TrainedModel& operator=(TrainedModel&&) noexcept = default;

  /// Adds the gradient of (sum of the batch's losses) / `scored` to the flat gradients.
  /// \param scored  scored tokens of the whole step, over all of its micro-batches
  /// \returns the sum of the batch's cross-entropies in nats
  double add_gradients(const PackedBatch& batch, std::int64_t scored, const Dropout& dropout) {
    const c10::NoGradGuard no_grad;
    plan_.dropout = dropout;
    at::Tensor embedded, h;
    if (prefix_) {
      h = prefix_->rows(batch.ids, batch.sequences, prefix());
    } else {
      embedded = embed(batch.ids, batch.sequences);
      h = embedded.detach();
    }
    const auto begin = prefix_ ? plan_.first_recorded() : 0;
    const auto device = parameters_.values().device();
    h = tape_.forward(model_, h, batch.sequences, batch.scored_rows.to(device), plan_, begin);
    at::Tensor dh;
    const double loss = head(h, batch.targets.to(device), 1.0 / static_cast<double>(scored), dh);
    const at::Tensor d = tape_.backward(model_, dh, batch.sequences);
    if (trains_shared_) embed_backward(batch, embedded, d);
    parameters_.fold_gradients();
    return loss;
  }

  /// Trains on the samples. \throws ArgumentError, NumericError as `TrainingLoop` does.
  TrainingSummary train(std::span<const Sample> samples, const TrainingOptions& options,
                        TrainingHooks hooks) {
    recompute(options.recompute);
    const auto kept = cache_prefix(samples, options.prefix_cache, hooks.prefix_store);
    if (kept == 0 && options.prefix_cache > 0 && !samples.empty())
      for (const auto& observer : hooks.observers)
        observer(WarningEvent{"nothing below the first trained block is cached: " +
                              std::string(plan_.first_recorded() == 0
                                              ? "the first block trains, or what comes before it"
                                              : "not even the first samples fit into prefix_cache")});
    TrainingLoop loop(
        parameters_,
        [this](const PackedBatch& batch, std::int64_t scored, const Dropout& dropout) {
          return add_gradients(batch, scored, dropout);
        },
        samples, options, std::move(hooks), parameters_.compute());
    return loop.run();
  }

  /// From now on every so many-th block below the last keeps its input alone, and is computed again in the backward pass:
  /// less memory, the same bits. 0 = none, 1 = all.
  void recompute(std::int64_t every) { plan_.recompute = every; }

  /// From now on computes the hidden rows of these samples that enter the first trained block once, and keeps them:
  /// see `PrefixCache`. `add_gradients` then takes them from there, in any batch. They are kept over further calls
  /// of the same samples and limit, so frozen values must stay as they are.
  /// \param limit  bytes, >= 0; 0 = keep none
  /// \returns samples that there is room for: 0 where the first block trains, or what comes before it
  std::int64_t cache_prefix(std::span<const Sample> samples, std::int64_t limit,
                            const PrefixStore& store = {}) {
    const auto begin = plan_.first_recorded();
    if (limit == 0 || samples.empty() || begin == 0 ||
        begin == static_cast<std::int64_t>(plan_.trained.size())) {
      prefix_.reset();
      return 0;
    }
    if (prefix_ && prefix_->serves(samples, limit)) return prefix_->kept();
    prefix_.reset();
    const c10::NoGradGuard no_grad;
    const std::vector<std::int64_t> one{1};
    const at::Tensor row = model_.embed(at::zeros({1}, at::kLong), Sequences::of(one));
    prefix_ = std::make_unique<PrefixCache>(
        samples, static_cast<std::int64_t>(row.nbytes()), limit, [&](std::size_t size) {
          return store ? store(prefix_identity(samples, size).views, size) : PrefixCache::zeroed(size);
        });
    return prefix_->kept();
  }
  /// What is kept of the samples below the first trained block; null if nothing is.
  [[nodiscard]] const PrefixCache* prefix_cache() const { return prefix_.get(); }

  [[nodiscard]] Model& model() { return model_; }  ///< with the trained values as they are now
  [[nodiscard]] FlatParameters& parameters() { return parameters_; }
  [[nodiscard]] const FlatParameters& parameters() const { return parameters_; }

 private:
  /// Where the model's tensors are: all on one device.
  static c10::Device device_of(Model& model) {
    c10::Device device = at::kCPU;
    model.visit_shared([&](std::string_view, const at::Tensor& tensor) { device = tensor.device(); });
    return device;
  }

  /// Rows of the head at a time, so that (rows, V) float32 stays near 100 MB for a vocabulary of 50,000.
  static constexpr std::int64_t kHeadRows = 512;

  at::Tensor embed(const at::Tensor& ids, const Sequences& s) {
    const c10::AutoGradMode grad(trains_shared_ && !HandWrittenShared<Model>);
    return model_.embed(ids, s);
  }

  /// The pass below the first trained block.
  PrefixCache::Compute prefix() {
    return [this](const at::Tensor& ids, const Sequences& s) {
      return BlockTape<Model, Access>::forward_frozen(model_, embed(ids, s), s, plan_.first_recorded());
    };
  }

  /// What the rows below the first trained block follow from, and where they lie: what a file of them is named by.
  /// The configuration is not in it; a cache compares what it finds.
  struct PrefixIdentity {
    std::vector<std::int64_t> numbers;
    std::vector<at::Tensor> tensors;
    std::vector<std::span<const std::byte>> views;
  };
  PrefixIdentity prefix_identity(std::span<const Sample> samples, std::size_t size) {
    PrefixIdentity identity;
    identity.numbers = {plan_.first_recorded(), static_cast<std::int64_t>(parameters_.compute()),
                        static_cast<std::int64_t>(size)};
    for (const auto& sample : samples) {
      identity.numbers.push_back(sample.rows());
      identity.numbers.insert(identity.numbers.end(), sample.tokens.begin(), sample.tokens.end());
    }
    identity.views.push_back(std::as_bytes(std::span(identity.numbers)));
    const auto add = [&](std::string_view, const at::Tensor& tensor) {
      const at::Tensor& kept = identity.tensors.emplace_back(tensor.detach().contiguous());
      identity.views.push_back({static_cast<const std::byte*>(kept.const_data_ptr()), kept.nbytes()});
    };
    model_.visit_shared(add);
    for (std::int64_t i = 0; i < plan_.first_recorded(); ++i) Access::visit(Access::block(model_, i), add);
    return identity;
  }

  void embed_backward(const PackedBatch& batch, const at::Tensor& embedded, const at::Tensor& d) {
    if constexpr (HandWrittenShared<Model>) {
      model_.embed_backward(d, batch.ids, batch.sequences);
    } else {
      const c10::AutoGradMode grad(true);
      embedded.backward(d);
    }
  }

  /// Loss of the rows `h` (M, C) by pieces; `dh` (M, C) becomes its gradient.
  double head(const at::Tensor& h, const at::Tensor& targets, double scale, at::Tensor& dh) {
    std::vector<at::Tensor> pieces;
    double loss = 0;
    for (std::int64_t begin = 0; begin < h.size(0); begin += kHeadRows) {
      const auto n = std::min(kHeadRows, h.size(0) - begin);
      pieces.push_back({});
      loss += head_piece(h.narrow(0, begin, n), targets.narrow(0, begin, n), scale, pieces.back());
    }
    dh = pieces.size() == 1 ? pieces.front() : at::cat(pieces);
    return loss;
  }

  double head_piece(const at::Tensor& h, const at::Tensor& targets, double scale, at::Tensor& dh) {
    if constexpr (HandWrittenShared<Model>) {
      typename Model::SavedHead saved;
      at::Tensor logits = model_.logits(h, saved);
      const double loss = ops::cross_entropy_(logits, targets, scale).sum;
      dh = model_.logits_backward(logits, saved);
      return loss;
    } else {
      const c10::AutoGradMode grad(true);
      at::Tensor leaf = h.detach().set_requires_grad(true);
      const at::Tensor logits = model_.logits(leaf).to(at::kFloat);
      const at::Tensor loss = at::cross_entropy_loss(logits, targets, {}, at::Reduction::Sum);
      loss.mul(scale).backward();
      dh = leaf.grad();
      return loss.item<double>();
    }
  }

  Model model_;
  FlatParameters parameters_;
  BlockTape<Model, Access> tape_;
  typename BlockTape<Model, Access>::Plan plan_;
  std::unique_ptr<PrefixCache> prefix_;
  bool trains_shared_ = false;
};

}  // namespace offsite
