#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "offsite/ops/attention.hpp"
#include "offsite/ops/projections.hpp"
#include "offsite/ops/rms_norm.hpp"

namespace offsite {

/// Norms over each head of queries and keys, as in Qwen3; without any, heads stay as they are.
struct HeadNorms {
  std::optional<RmsNorm> q{}, k{};  ///< of head width

  struct Saved {
    RmsNorm::Saved q, k;
  };

  /// The normed heads, differentiable by autograd; `o` says how many there are.
  [[nodiscard]] Qkv forward(const Qkv& x, const ops::AttentionOptions& o) const {
    return {q ? q->forward(by_head(x.q, o.heads)).view(x.q.sizes()) : x.q,
            k ? k->forward(by_head(x.k, o.key_heads())).view(x.k.sizes()) : x.k, x.v};
  }
  /// The same without a graph; keeps for `backward_` what it needs if `save`.
  void forward_(Qkv& x, const ops::AttentionOptions& o, Saved& saved, bool save) const {
    if (q) x.q = q->forward(by_head(x.q, o.heads), saved.q, save).view(x.q.sizes());
    if (k) x.k = k->forward(by_head(x.k, o.key_heads()), saved.k, save).view(x.k.sizes());
  }
  /// Turns gradients of the normed heads into those of the given ones, in place; adds the gradients of weights.
  void backward_(const Qkv& d, const ops::AttentionOptions& o, const Saved& saved) const {
    if (q) d.q.copy_(q->backward(by_head(d.q, o.heads), saved.q).view(d.q.sizes()));
    if (k) d.k.copy_(k->backward(by_head(d.k, o.key_heads()), saved.k).view(d.k.sizes()));
  }

  /// Calls `f(name, tensor&)` for every parameter.
  template <class F>
  void visit(std::string_view prefix, F&& f) {
    if (q) q->visit(std::string(prefix) + "q_norm", f);
    if (k) k->visit(std::string(prefix) + "k_norm", f);
  }

 private:
  /// (N, heads * depth) or (N, heads, depth) -> (N * heads, depth)
  static at::Tensor by_head(const at::Tensor& t, std::int64_t heads) {
    return t.reshape({t.size(0) * heads, -1});
  }
};

}  // namespace offsite
