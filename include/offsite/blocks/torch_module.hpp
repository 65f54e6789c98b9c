#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/container/modulelist.h>

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "offsite/blocks/block_access.hpp"
#include "offsite/core/error.hpp"

namespace offsite {

namespace detail {

// clang-format off: compilers print a requirement's own line, so its remedy stays on it
template <class N>
concept NamesBlockModule =
    std::derived_from<typename N::Block, torch::nn::Module>;  // missing? using Block = YourBlockImpl;

template <class N>
concept RunsBlockModule = requires(typename N::Block& block, const at::Tensor& h) {
  {
    block.forward(h)
    }
    -> std::same_as<at::Tensor>;  // missing? at::Tensor forward(const at::Tensor& h), (B, T, C) -> (B, T, C)
};

template <class N>
concept EmbedsAndScores = requires(N& net, const at::Tensor& t) {
  {
    net.embed(t, t)
    } -> std::same_as<
        at::Tensor>;  // missing? at::Tensor embed(const at::Tensor& ids, const at::Tensor& positions)
  { net.logits(t) } -> std::same_as<at::Tensor>;  // missing? at::Tensor logits(const at::Tensor& rows)
};
// clang-format on

}  // namespace detail

/// A torch::nn module that is a language model around blocks held in a `torch::nn::ModuleList`.
///
///   `N::Block`                   the type of the list's modules; `forward` takes B sequences of one length:
///                                (B, T, C) -> (B, T, C)
///   `net.embed(ids, positions)`  packed rows: (N) int64, (N) int64 -> (N, C)
///   `net.logits(h)`              final norm and head of any rows: (M, C) -> (M, V)
///   `N::kBlocks`                 the list's name within the module, as "decoder.layers"; if missing, "blocks"
///
/// Semantic requirement: a block treats the sequences of a batch apart and keeps nothing between calls.
template <class N>
concept TorchNet = std::derived_from<N, torch::nn::Module> && detail::NamesBlockModule<N> &&
    detail::RunsBlockModule<N> && detail::EmbedsAndScores<N>;

namespace detail {

/// The list's name within the module.
template <class N>
std::string list_name() {
  if constexpr (requires { N::kBlocks; })
    return std::string(N::kBlocks);
  else
    return "blocks";
}

/// Lets `parameter` stand for what `tensor` stands for. A module and its members hold handles of their own to
/// one parameter, so the handle cannot be replaced: the data goes into it.
inline void take_over(at::Tensor& parameter, const at::Tensor& tensor) {
  const c10::NoGradGuard no_grad;
  parameter.set_requires_grad(false);
  parameter.set_data(tensor.detach());
  parameter.mutable_grad() = tensor.grad();
  parameter.set_requires_grad(tensor.requires_grad());
}

/// Calls `f(name, tensor&)` for the parameters of `module` that `wanted(name)` names, a tied one once.
template <class Wanted, class F>
void visit_module(torch::nn::Module& module, const Wanted& wanted, F&& f) {
  std::vector<const void*> seen;
  for (auto& parameter : module.named_parameters()) {
    const void* id = parameter.value().unsafeGetTensorImpl();
    if (!wanted(parameter.key()) || std::find(seen.begin(), seen.end(), id) != seen.end()) continue;
    seen.push_back(id);
    at::Tensor slot = parameter.value();
    f(std::string_view(parameter.key()), slot);
    if (!slot.is_same(parameter.value())) take_over(parameter.value(), slot);
  }
}

/// Makes all parameters of `fresh` share the data of those of `from`, in evaluation mode and without
/// gradients; buffers are copied, since a module may write to them.
/// \throws ArgumentError unless `fresh` is another module of the same parameters and buffers, tied alike.
inline void share_parameters(const torch::nn::Module& from, torch::nn::Module& fresh) {
  const c10::NoGradGuard no_grad;
  const auto source = from.named_parameters(), target = fresh.named_parameters();
  const auto same_names = [](const auto& a, const auto& b) { return a.keys() == b.keys(); };
  require(same_names(source, target) && same_names(from.named_buffers(), fresh.named_buffers()),
          "the new module has {} parameters and {} buffers, but the model {} and {}, or other names for them",
          target.size(), fresh.named_buffers().size(), source.size(), from.named_buffers().size());
  std::map<const void*, std::string> first_of_source, first_of_target;
  for (const auto& name : source.keys()) {
    at::Tensor old = source[name], parameter = target[name];
    require(!old.is_same(parameter), "the function that makes a new module returned one with the old '{}'",
            name);
    const auto& tied = first_of_source.emplace(old.unsafeGetTensorImpl(), name).first->second;
    const auto& now_tied = first_of_target.emplace(parameter.unsafeGetTensorImpl(), name).first->second;
    require(tied == now_tied,
            "'{}' is tied to '{}' in the model, but to '{}' in a new one (a clone loses ties that are made "
            "between "
            "submodules): give TorchModule a function that makes a new module",
            name, tied, now_tied);
    if (tied == name) take_over(parameter, old.detach());
  }
  const auto buffers = from.named_buffers(), copies = fresh.named_buffers();
  for (const auto& name : buffers.keys()) {
    at::Tensor copy = copies[name];
    copy.set_data(buffers[name].detach().clone());
  }
  fresh.eval();
}

/// Runs `block` on packed rows: the sequences of each length as one batch, so that nothing is padded and any
/// block, causal or not, computes what it would for each sequence alone.
template <class Block>
at::Tensor run_packed(Block& block, const at::Tensor& h, const Sequences& s) {
  std::map<std::int64_t, std::vector<std::int64_t>> by_length;
  for (std::int64_t i = 0; i < s.count(); ++i) by_length[s.length(i)].push_back(i);
  const auto run = [&](const at::Tensor& rows, std::int64_t length) {
    const at::Tensor x = rows.view({-1, length, h.size(1)});
    const at::Tensor y = block.forward(x);
    require(y.sizes() == x.sizes() && y.scalar_type() == x.scalar_type(),
            "a block was given {} numbers ({} x {} x {}) and returned {} in {} dimensions or another dtype",
            c10::toString(x.scalar_type()), x.size(0), length, h.size(1), y.numel(), y.dim());
    return y.reshape({-1, h.size(1)});
  };
  if (by_length.size() == 1) return run(h.contiguous(), by_length.begin()->first);

  std::vector<at::Tensor> pieces(static_cast<std::size_t>(s.count()));
  for (const auto& [length, members] : by_length) {
    std::vector<at::Tensor> rows;
    for (const auto i : members) rows.push_back(h.narrow(0, s.begin(i), length));
    const at::Tensor y = run(at::cat(rows), length);
    std::int64_t begin = 0;
    for (const auto i : members) {
      pieces[static_cast<std::size_t>(i)] = y.narrow(0, begin, length);
      begin += length;
    }
  }
  return at::cat(pieces);
}

}  // namespace detail

/// A torch::nn module as a model, with value semantics: every copy has a module of its own, and copies share
/// their parameters' memory until one is assigned to. The module it was made from is never changed.
///
/// It runs in evaluation mode through autograd, so dropout must be in the model's own hands: the trainer's
/// dropout rates do not reach it. Of several copies each may be used in a thread of its own.
template <TorchNet Net>
class TorchModule {
 public:
  using Make = std::function<std::shared_ptr<Net>()>;

  /// For a net that can be cloned: copies are made by `Cloneable::clone`, which for a moment copies all
  /// memory.
  /// \throws ArgumentError as below, or if cloning unties parameters.
  explicit TorchModule(const std::shared_ptr<Net>& net) requires std::derived_from<
      Net, torch::nn::Cloneable<Net>>  // not cloneable? give a function that makes a new one
      : TorchModule(net, Make{}) {}

  /// For any net. \param make  returns a new module of the same architecture; its values do not matter
  /// \throws ArgumentError if the net has no such list, the list is empty or holds another type, a block
  /// shares a parameter with another one or with the rest, or `make` makes something else.
  TorchModule(const std::shared_ptr<Net>& net, Make make) : make_(std::move(make)) {
    require(net != nullptr, "a model was to be made of a null module");
    places_.resize(blocks_of(*net).size());
    std::iota(places_.begin(), places_.end(), 0);
    check_ties(*net);
    adopt(*net);
  }

  TorchModule(const TorchModule& other) : make_(other.make_), places_(other.places_) { adopt(*other.net_); }
  TorchModule(TorchModule&&) noexcept = default;
  TorchModule& operator=(TorchModule other) noexcept {
    std::swap(make_, other.make_);
    std::swap(places_, other.places_);
    std::swap(net_, other.net_);
    std::swap(blocks_, other.blocks_);
    return *this;
  }
  ~TorchModule() = default;

  [[nodiscard]] at::Tensor embed(const at::Tensor& ids, const Sequences& s) const {
    return net_->embed(ids, s.positions);
  }
  [[nodiscard]] at::Tensor logits(const at::Tensor& h) const { return net_->logits(h); }
  /// Names are the module's own: "table.weight".
  template <class F>
  void visit_shared(F&& f) {
    const auto prefix = detail::list_name<Net>() + ".";
    detail::visit_module(
        *net_, [&](const std::string& name) { return !name.starts_with(prefix); }, f);
  }

  [[nodiscard]] std::int64_t num_blocks() const { return static_cast<std::int64_t>(blocks_.size()); }
  [[nodiscard]] typename Net::Block& block(std::int64_t i) { return *blocks_[static_cast<std::size_t>(i)]; }

  /// \throws ArgumentError if a block is kept twice or does not exist.
  [[nodiscard]] TorchModule select(std::span<const std::int64_t> kept) const {
    TorchModule result(*this, {});
    for (const auto i : kept) {
      require(0 <= i && i < num_blocks(), "block {} was asked for, but the model has {}", i, num_blocks());
      const auto place = places_[static_cast<std::size_t>(i)];
      require(std::find(result.places_.begin(), result.places_.end(), place) == result.places_.end(),
              "block {} was asked for twice, but a module has one of each", i);
      result.places_.push_back(place);
    }
    result.adopt(*net_);
    return result;
  }

  /// The module with this model's parameters: to run it, or to save it with torch::save.
  /// \throws ArgumentError if the model is an emulator's, of which the module has more blocks.
  [[nodiscard]] std::shared_ptr<Net> net() const {
    std::vector<std::int64_t> all(blocks_of(*net_).size());
    std::iota(all.begin(), all.end(), 0);
    require(places_ == all, "the model has {} of its module's {} blocks, so the module cannot run",
            num_blocks(), all.size());
    return net_;
  }

 private:
  TorchModule(const TorchModule& other, std::vector<std::int64_t> places)
      : make_(other.make_), places_(std::move(places)) {}

  static std::vector<std::shared_ptr<typename Net::Block>> blocks_of(const Net& net) {
    const auto name = detail::list_name<Net>();
    const auto modules = net.named_modules({}, false);
    const auto* found = modules.find(name);
    const auto list = found ? std::dynamic_pointer_cast<torch::nn::ModuleListImpl>(*found) : nullptr;
    require(list != nullptr, "the module has no torch::nn::ModuleList '{}', where its blocks should be",
            name);
    require(list->size() > 0, "the module's list '{}' is empty", name);
    std::vector<std::shared_ptr<typename Net::Block>> blocks;
    for (const auto& module : *list) {
      blocks.push_back(std::dynamic_pointer_cast<typename Net::Block>(module));
      require(blocks.back() != nullptr, "'{}.{}' is a {}, which is not the module's Block", name,
              blocks.size() - 1, module->name());
    }
    return blocks;
  }

  /// Each block is trained, dropped or handed out apart from the others, so none may share a parameter.
  static void check_ties(const Net& net) {
    const auto prefix = detail::list_name<Net>() + ".";
    std::map<const void*, std::pair<std::string, std::string>>
        owners;  // parameter -> its block or "", its name
    for (const auto& parameter : net.named_parameters()) {
      const auto& name = parameter.key();
      const auto owner =
          name.starts_with(prefix) ? name.substr(0, name.find('.', prefix.size())) : std::string();
      const auto& first =
          owners.emplace(parameter.value().unsafeGetTensorImpl(), std::pair(owner, name)).first->second;
      require(first.first == owner, "'{}' and '{}' are one parameter, but blocks cannot share any",
              first.second, name);
    }
  }

  /// Makes a module of its own that shares the memory of those of `from`'s parameters that are in use.
  void adopt(const Net& from) {
    net_ = make_ ? make_() : std::dynamic_pointer_cast<Net>(from.clone());
    require(net_ != nullptr, "the function that makes a new module returned none");
    detail::share_parameters(from, *net_);
    const auto all = blocks_of(*net_);
    for (const auto place : places_) blocks_.push_back(all[static_cast<std::size_t>(place)]);
    for (const auto& block : all)
      if (std::find(blocks_.begin(), blocks_.end(), block) == blocks_.end())
        for (auto& parameter : block->parameters()) parameter.set_data(at::empty({0}, parameter.options()));
  }

  Make make_;
  std::vector<std::int64_t> places_;  ///< of each block in the module's list
  std::shared_ptr<Net> net_;          ///< no one else's
  std::vector<std::shared_ptr<typename Net::Block>> blocks_;
};

template <class Net>
struct BlockAccess<TorchModule<Net>> {
  using Model = TorchModule<Net>;
  using Block = typename Net::Block;

  [[nodiscard]] static std::int64_t num_blocks(const Model& model) { return model.num_blocks(); }
  [[nodiscard]] static Block& block(Model& model, std::int64_t i) { return model.block(i); }
  /// \throws ArgumentError if sequences have parents, or the block returns another shape or dtype.
  [[nodiscard]] static at::Tensor forward(Block& block, const at::Tensor& h, const Sequences& s) {
    require(s.parents.empty(), "sequences with parents were given, but modules do not share prefixes");
    return detail::run_packed(block, h, s);
  }
  template <class F>
  static void visit(Block& block, F&& f) {
    detail::visit_module(
        block, [](const std::string&) { return true; }, f);
  }
  [[nodiscard]] static Model select(const Model& model, std::span<const std::int64_t> kept) {
    return model.select(kept);
  }
  [[nodiscard]] static std::string block_prefix(std::int64_t number) {
    return detail::list_name<Net>() + "." + std::to_string(number) + ".";
  }
};

}  // namespace offsite
