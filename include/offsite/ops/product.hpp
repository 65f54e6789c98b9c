#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>
#include <c10/core/GradMode.h>

#include <optional>
#include <string_view>

#include "offsite/ops/direct_product.hpp"
#include "offsite/ops/simd.hpp"
#include "offsite/ops/tiled_product.hpp"
#include "offsite/ops/transposed_product.hpp"

namespace offsite::ops {
namespace detail {

/// LibTorch's own call of oneDNN for a linear layer, which its compiler (Inductor) uses and no header declares. Undefined in
/// a LibTorch without oneDNN.
struct LinearPointwise {
  using Signature = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                               std::string_view, c10::List<std::optional<at::Scalar>>,
                               std::optional<std::string_view>);

  [[nodiscard]] static const std::optional<c10::TypedOperatorHandle<Signature>>& operation() {
    static const auto found = []() -> std::optional<c10::TypedOperatorHandle<Signature>> {
      const auto handle = c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", ""});
      if (!handle || !handle->hasKernelForDispatchKey(c10::DispatchKey::CPU)) return std::nullopt;
      return handle->typed<Signature>();
    }();
    return found;
  }
  /// Whether oneDNN multiplies these as it should: bfloat16 on a processor that has vectors for it, without a graph.
  [[nodiscard]] static bool serves(const at::Tensor& x) {
    return !c10::GradMode::is_enabled() && x.is_cpu() && x.scalar_type() == at::kBFloat16 &&
           simd::best_isa() >= simd::Isa::kAvx512Bf16 && operation().has_value();
  }
};

}  // namespace detail

/// x W + b, differentiable by autograd: `x` (N, in), `w` (in, out) of any strides, `bias` (out) or undefined; the result
/// is (N, out).
///
/// Many rows go to `TiledProduct`, fewer to `TransposedProduct` or `DirectProduct`, as the weight lies. For
/// the others oneDNN adds the bias on its way: one pass over the result instead of at::addmm's three, which writes the
/// bias into the result before the product and reads it again after.
[[nodiscard]] inline at::Tensor product(const at::Tensor& x, const at::Tensor& w,
                                        const at::Tensor& bias = {}) {
  if (TiledProduct::serves(x, w, bias)) return TiledProduct::run(x, w, bias);
  if (TransposedProduct::serves(x, w, bias)) return TransposedProduct::run(x, w, bias);
  if (DirectProduct::serves(x, w, bias)) return DirectProduct::run(x, w, bias);
  if (!bias.defined()) return at::mm(x, w);
  // Of a slice of a fused weight oneDNN's layer has its slow reference alone.
  const bool dense = w.is_contiguous() || w.t().is_contiguous();
  if (!dense || !detail::LinearPointwise::serves(x)) return at::addmm(bias, x, w);
  return detail::LinearPointwise::operation()->call(x, w.t(), bias, "none",
                                                    c10::List<std::optional<at::Scalar>>(), "");
}

}  // namespace offsite::ops
