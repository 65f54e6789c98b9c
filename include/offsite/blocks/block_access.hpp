#pragma once
#include <ATen/core/Tensor.h>

#include <concepts>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "offsite/core/dropout.hpp"
#include "offsite/core/sequences.hpp"

namespace offsite {

/// Specialise for a model type; see `BlockAccessor`.
template <class Model>
struct BlockAccess;

/// What a pass asks of one block besides all rows of its output.
struct BlockPass {
  at::Tensor rows{};  ///< (M) int64, ascending: the wanted rows of the output; undefined = all N
  Dropout dropout{};  ///< zero in frozen blocks and in evaluation
  bool save = true;   ///< false: no backward pass follows, so nothing is kept for one
  bool output = true;  ///< false: only what is kept matters, and the result may be undefined
};

namespace detail {

struct ParameterVisitor {  // archetype of what the trainer passes to visit
  void operator()(std::string_view, at::Tensor&) const {}
};

// clang-format off: compilers print a requirement's own line, so its remedy stays on it
template <class A>
concept IsDefined = requires { sizeof(A); };  // missing? specialise offsite::BlockAccess<YourModel>

template <class A>
concept NamesBlockType = requires { typename A::Block; };  // missing? add `using Block = ...;`

template <class A, class M>
concept CountsBlocks = requires(const M& model) {
  { A::num_blocks(model) } -> std::same_as<std::int64_t>;  // missing? static std::int64_t num_blocks(const M&)
};

template <class A, class M>
concept ReturnsBlocks = NamesBlockType<A> && requires(M& model, std::int64_t index) {
  { A::block(model, index) } -> std::same_as<typename A::Block&>;  // static Block& block(M&, std::int64_t): never a copy
};

template <class A>
concept RunsBlocks = NamesBlockType<A> && requires(typename A::Block& block, const at::Tensor& h, const Sequences& s) {
  { A::forward(block, h, s) } -> std::same_as<at::Tensor>;  // static at::Tensor forward(Block&, const at::Tensor&, const Sequences&)
};

template <class A>
concept VisitsParameters = NamesBlockType<A> && requires(typename A::Block& block, ParameterVisitor visitor) {
  A::visit(block, visitor);  // template <class F> static void visit(Block& b, F&& f) { f("name", b.tensor); ... }
};

template <class A, class M>
concept SelectsBlocks = requires(const M& model, std::span<const std::int64_t> kept) {
  { A::select(model, kept) } -> std::same_as<M>;  // missing? static M select(const M&, std::span<const std::int64_t>)
};
// clang-format on

}  // namespace detail

/// Views model `M` as an ordered sequence of transformer blocks.
///
/// Below, `m` is an `M&` with L blocks, 0 <= i < L and `b` is one of them. N = packed rows (the tokens of all
/// sequences end to end), C = hidden width; `s` tells where each sequence begins.
///
///   `A::Block`                 the type of one block
///   `A::num_blocks(m)`         L > 0, as `std::int64_t`
///   `A::block(m, i)`           block i, by reference
///   `A::forward(b, h, s)`      (N, C) -> (N, C), differentiable by autograd in `h` and in `b`'s parameters
///   `A::visit(b, f)`           calls `f(name, tensor&)` for every parameter, the same names in the same order each time
///   `A::select(m, kept)`       an `M` of the blocks `kept`, in that order, that shares the tensors: assigning to a
///                              tensor handle of one leaves the other alone
///
/// Semantic requirement: folding `A::forward` over blocks 0..L-1 equals the model's own pass between embedding and
/// final norm; a block computes with its number in the full model wherever it stands.
template <class A, class M>
concept BlockAccessor = detail::IsDefined<A> && detail::NamesBlockType<A> && detail::CountsBlocks<A, M> &&
                        detail::ReturnsBlocks<A, M> && detail::RunsBlocks<A> && detail::VisitsParameters<A> &&
                        detail::SelectsBlocks<A, M>;

/// Refinement: the block has a hand-written backward pass, so that no autograd graph is built in it.
///
///   `A::Saved`                            what a forward pass keeps for the backward one; default-constructible
///   `A::forward(b, h, s, pass, saved)`    (N, C) -> (N, C), or (M, C) with `pass.rows`; records no graph
///   `A::backward(b, dy, s, saved, need)`  dL/dh (N, C), or undefined if not `need`; adds the gradient of every
///                                         parameter whose `grad()` is defined, in the gradient's own dtype
template <class A>
concept HandWrittenBackward =
    std::default_initializable<typename A::Saved> &&
    requires(typename A::Block& block, const at::Tensor& h, const Sequences& s, const BlockPass& pass,
             typename A::Saved& saved, bool need) {
      { A::forward(block, h, s, pass, saved) } -> std::same_as<at::Tensor>;
      { A::backward(block, h, s, saved, need) } -> std::same_as<at::Tensor>;
    };

/// Refinement: the hand-written forward pass honours `Sequences::parents`.
template <class A>
concept SharesPrefixes = HandWrittenBackward<A> && A::kSharesPrefixes;

/// Refinement: a block can go on from the keys and values of earlier tokens of one sequence.
///
///   `A::Cache`                      keys and values so far; default-constructed for none
///   `A::forward(b, h, cache)`       (n, C) -> (n, C) for the next n tokens, whose keys and values are appended
template <class A>
concept CachesKeys = std::default_initializable<typename A::Cache> &&
                     requires(typename A::Block& block, const at::Tensor& h, typename A::Cache& cache) {
                       { A::forward(block, h, cache) } -> std::same_as<at::Tensor>;
                     };

/// What parameters of block `number` (in the full model) are called outside: the accessor's `block_prefix` where it
/// has one, as for models with a published checkpoint layout; "blocks.N." otherwise.
template <class Access>
[[nodiscard]] std::string block_prefix(std::int64_t number) {
  if constexpr (requires { Access::block_prefix(number); })
    return Access::block_prefix(number);
  else
    return "blocks." + std::to_string(number) + ".";
}

/// The part of an accessor that is the same for all plain structs with a vector of blocks; `Blocks` is `&Model::blocks`.
template <class Model, auto Blocks>
struct VectorBlocks {
  using Block = typename std::remove_cvref_t<decltype(std::declval<Model&>().*Blocks)>::value_type;

  [[nodiscard]] static std::int64_t num_blocks(const Model& model) {
    return static_cast<std::int64_t>((model.*Blocks).size());
  }
  [[nodiscard]] static Block& block(Model& model, std::int64_t i) {
    return (model.*Blocks)[static_cast<std::size_t>(i)];
  }
  [[nodiscard]] static Model select(const Model& model, std::span<const std::int64_t> kept) {
    Model result = model;
    (result.*Blocks).clear();
    for (const auto i : kept) (result.*Blocks).push_back((model.*Blocks).at(static_cast<std::size_t>(i)));
    return result;
  }
};

}  // namespace offsite
