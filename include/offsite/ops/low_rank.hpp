#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones_like.h>
#include <c10/core/GradMode.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "offsite/core/random.hpp"
#include "offsite/ops/accumulate.hpp"
#include "offsite/ops/dropout.hpp"
#include "offsite/ops/tiled_gradient.hpp"

namespace offsite {

/// What the dropout of a layer's own module draws its masks from in one training pass.
struct ModulePass {
  const Sequences& sequences;
  at::Tensor rows;  ///< (M) int64: the packed rows that layers may be given instead of all; or undefined
  std::uint64_t key = 0;  ///< derived from seed and step
};

namespace ops {

/// gradient += a^T b, in the gradient's own type.
inline void add_gradient(at::Tensor gradient, const at::Tensor& a, const at::Tensor& b) {
  if (TiledGradient::serves(gradient, a, b))
    TiledGradient::run(gradient, a, b);
  else if (gradient.scalar_type() == a.scalar_type())
    gradient.addmm_(a.t(), b);
  else
    accumulate(gradient, at::mm(a.t(), b));
}

}  // namespace ops

/// Dropout of a module within a linear layer; off unless a training pass is set.
struct ModuleDropout {
  using Masks = std::shared_ptr<const std::vector<ops::DropoutRow>>;

  double rate = 0;                   ///< in [0, 1)
  std::uint64_t place = 0;           ///< keeps its masks apart from those of other layers
  const ModulePass* pass = nullptr;  ///< set while a training pass runs; not owned

  /// Masks for `x` (M, C), or null if nothing is dropped.
  [[nodiscard]] Masks masks(const at::Tensor& x) const {
    if (rate == 0 || pass == nullptr) return nullptr;
    const bool all = x.size(0) == pass->sequences.rows();
    const at::Tensor rows = all ? at::Tensor{} : pass->rows;
    require(all || (rows.defined() && rows.numel() == x.size(0)),
            "a layer with dropout was given {} rows, but the pass has {}", x.size(0), pass->sequences.rows());
    return std::make_shared<const std::vector<ops::DropoutRow>>(
        ops::residual_masks(pass->sequences, rows, rate, derive_key(pass->key, place), kPlaceOfModules));
  }
  /// `x` with its masks applied; `x` itself without any. Differentiable by autograd.
  [[nodiscard]] static at::Tensor apply(const at::Tensor& x, const Masks& masks) {
    if (masks == nullptr) return x;
    const at::Tensor factors = at::ones_like(x, at::MemoryFormat::Contiguous);
    ops::dropout_(factors, *masks);
    return x.mul(factors);
  }

 private:
  static constexpr std::int64_t kPlaceOfModules = 16;  // above the places that blocks name themselves
};

/// A trained low-rank change of a frozen linear layer: y += scale drop(x) A^T B^T (LoRA, arXiv:2106.09685).
///
/// With `magnitude`, row i of the changed weight has the norm magnitude[i] (DoRA, arXiv:2402.09353): its own norm is
/// divided out, as a constant in the backward pass, as PEFT does. Dropout acts on the low-rank path alone.
struct LowRank {
  at::Tensor a;          ///< (r, in); undefined = there is no such change
  at::Tensor b;          ///< (out, r)
  at::Tensor magnitude;  ///< (out), or undefined
  double scale = 1;      ///< alpha / r, or alpha / sqrt(r)
  ModuleDropout dropout{};

  struct Saved {
    at::Tensor x, t;           // what A is given, and A's result times scale: only if the factors train
    at::Tensor z, norm, gain;  // with magnitude: the output before it, without bias
    ModuleDropout::Masks masks;
  };

  [[nodiscard]] bool defined() const { return a.defined(); }
  [[nodiscard]] bool trains() const {
    return a.grad().defined() || b.grad().defined() || (magnitude.defined() && magnitude.grad().defined());
  }

  /// The change in float32 (out, in), without magnitude: scale B A.
  [[nodiscard]] at::Tensor delta() const {
    return at::mm(b.detach().to(at::kFloat), a.detach().to(at::kFloat)).mul_(scale);
  }
  /// Norms of the rows of the changed weight, float32 (out). \param weight (out, in)
  ///
  /// Summed in double: then their bits do not depend on the order of summation, and an untrained layer is what it was.
  [[nodiscard]] at::Tensor row_norms(const at::Tensor& weight) const {
    const at::Tensor changed = delta().add_(weight.detach());
    return at::linalg_vector_norm(changed, 2, at::IntArrayRef{1}, false, at::kDouble).to(at::kFloat);
  }
  /// The changed weight in float32. \param weight (out, in)
  [[nodiscard]] at::Tensor merged(const at::Tensor& weight) const {
    at::Tensor changed = delta().add_(weight.detach());
    if (magnitude.defined()) changed.mul_(gain(row_norms(weight)).detach().to(at::kFloat).unsqueeze(1));
    return changed;
  }

  /// `y` (N, out), the frozen layer's output for `x` (N, in), changed; may work in place. Differentiable by autograd.
  [[nodiscard]] at::Tensor forward(at::Tensor y, const at::Tensor& x, const at::Tensor& weight,
                                   const at::Tensor& bias, Saved& saved, bool save) const {
    saved.masks = dropout.masks(x);
    const at::Tensor dropped = ModuleDropout::apply(x, saved.masks);
    const at::Tensor t = at::mm(dropped, a.t()).mul(scale);
    save = save && trains();
    if (save) {
      saved.x = dropped;
      saved.t = t;
    }
    if (!magnitude.defined())
      return c10::GradMode::is_enabled() ? at::addmm(y, t, b.t()) : y.addmm_(t, b.t());

    // Written as a change of y, so that a gain of 1 leaves its bits alone.
    const at::Tensor norm = row_norms(weight), g = gain(norm), delta = at::mm(t, b.t());
    const at::Tensor plain = bias.defined() ? y.sub(bias) : y;
    saved.gain = g;
    if (save) {
      saved.z = plain.add(delta);
      saved.norm = norm;
    }
    return y.add(plain.mul(g.sub(1))).add_(delta.mul(g));
  }

  /// Adds the gradients of the factors that train, and to `dx` (N, in) what flows through them if it is defined.
  /// \returns dL/d(the frozen layer's output): `dy` itself without magnitude
  at::Tensor backward(const at::Tensor& dy, const Saved& saved, at::Tensor* dx) const {
    at::Tensor d = dy;
    if (magnitude.defined()) {
      if (magnitude.grad().defined())
        ops::accumulate(magnitude.grad(),
                        dy.mul(saved.z).sum(at::IntArrayRef{0}, false, at::kFloat).div_(saved.norm));
      d = dy.mul(saved.gain);
    }
    const at::Tensor dt = at::mm(d, b).mul_(scale);
    if (b.grad().defined()) ops::add_gradient(b.grad(), d, saved.t);
    if (a.grad().defined()) ops::add_gradient(a.grad(), dt, saved.x);
    if (dx != nullptr) *dx = ModuleDropout::apply(at::mm(dt, a), saved.masks);
    return d;
  }

 private:
  [[nodiscard]] at::Tensor gain(const at::Tensor& norm) const {
    return magnitude.div(norm.to(magnitude.scalar_type()));
  }
};

}  // namespace offsite
