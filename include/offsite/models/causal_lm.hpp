#pragma once
#include <ATen/core/Tensor.h>

#include <concepts>

#include "offsite/blocks/block_access.hpp"

namespace offsite {

/// A language model around its blocks: what training and evaluation need, and no more.
///
/// N = packed rows, M = any rows, C = hidden width, V = vocabulary; `ids` is (N) int64.
///
///   `m.embed(ids, s)`       (N) -> (N, C), differentiable by autograd in the shared parameters
///   `m.logits(h)`           final norm and head of any rows: (M, C) -> (M, V), differentiable likewise and in `h`
///   `m.visit_shared(f)`     calls `f(name, tensor&)` for every parameter outside the blocks; a tied one once
// clang-format off: compilers print a requirement's own line, so its remedy stays on it
template <class M>
concept CausalLm = std::copyable<M> && requires(M& m, const at::Tensor& t, const Sequences& s,
                                                detail::ParameterVisitor visitor) {
  { m.embed(t, s) } -> std::same_as<at::Tensor>;   // missing? at::Tensor embed(const at::Tensor& ids, const Sequences&)
  { m.logits(t) } -> std::same_as<at::Tensor>;     // missing? at::Tensor logits(const at::Tensor& rows)
  m.visit_shared(visitor);                         // missing? template <class F> void visit_shared(F&& f)
};
// clang-format on

/// Refinement: embedding, final norm and head have hand-written backward passes.
///
///   `M::SavedHead`                     what `logits` keeps; default-constructible
///   `m.logits(h, saved)`               as above, without a graph
///   `m.logits_backward(d, saved)`      (M, V) -> dL/dh (M, C); adds to every shared parameter whose `grad()` is defined
///   `m.embed_backward(d, ids, s)`      (N, C): adds likewise
template <class M>
concept HandWrittenShared = std::default_initializable<typename M::SavedHead> &&
                            requires(M& m, const at::Tensor& t, const Sequences& s, typename M::SavedHead& saved) {
                              { m.logits(t, saved) } -> std::same_as<at::Tensor>;
                              { m.logits_backward(t, saved) } -> std::same_as<at::Tensor>;
                              m.embed_backward(t, t, s);
                            };

}  // namespace offsite
