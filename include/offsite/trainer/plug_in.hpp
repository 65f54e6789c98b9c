#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/eq.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/where.h>
#include <c10/core/GradMode.h>

#include <cmath>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "offsite/adapters/modules.hpp"
#include "offsite/emulator/split_plan.hpp"
#include "offsite/trainer/trained_model.hpp"

namespace offsite {

/// A model with trained adapters around its original middle, and what that did.
template <class Model>
struct PlugIn {
  Model model;
  std::int64_t tensors_changed = 0;  ///< of the model's own: a merged low-rank change counts as its weight's
  double rounding_loss =
      0;  ///< share of the change's norm that rounding to the model's own precision lost, 0..1
};

/// Puts `values` (flat float32, as `layout` lays them) into the adapter blocks of `model`, in each tensor's
/// own dtype.
///
/// Low-rank changes are merged into the weights they belong to, unless `merge` is false: then the model keeps its
/// factors. What cannot be merged stays beside them in either case. All other tensors are shared with `model`. A number that did not change keeps its bits, so untrained
/// adapters give the model back as it was: adding a zero would turn -0 into 0, and rounding may not be its
/// own inverse.
template <class Access, class Model, class Adapters>
[[nodiscard]] PlugIn<Model> plug_in(const Model& model, const SplitPlan& plan, const ParameterLayout& layout,
                                    const Adapters& adapters, const at::Tensor& values, bool merge = true) {
  const c10::NoGradGuard no_grad;
  require(values.numel() == layout.size(), "{} values were given, but {} are trained", values.numel(),
          layout.size());
  std::vector<std::int64_t> all(static_cast<std::size_t>(plan.depth));
  std::iota(all.begin(), all.end(), 0);
  PlugIn<Model> result{Access::select(model, all)};
  const auto parts = TrainedParts::of(trained_blocks(adapters, plan, true));
  MergeReport report;
  std::size_t next = 0;
  detail::visit_trained<Access>(
      result.model, all, parts, adapters, [&](const std::string& name, at::Tensor& slot, bool, bool) {
        const at::Tensor wanted = FlatParameters::view(values, layout.tensors()[next++]);
        if (detail::is_module_name(name)) {
          const bool merges = name.find(".lora_") != name.npos;
          if (!merges && !slot.detach().to(at::kFloat).equal(wanted)) ++report.tensors_changed;
          slot = wanted.clone();
          return;
        }
        const at::Tensor old = slot.detach().to(at::kFloat);
        const at::Tensor same = old.eq(wanted);
        if (same.all().item<bool>()) return;
        const at::Tensor rounded = wanted.to(slot.scalar_type());
        report.lost += std::pow(at::linalg_vector_norm(rounded.to(at::kFloat).sub(wanted)).item<double>(), 2);
        report.change += std::pow(at::linalg_vector_norm(wanted.sub(old)).item<double>(), 2);
        slot = at::where(same, slot.detach(), rounded);
        ++report.tensors_changed;
      });
  if (merge)
    for (const auto place : parts.places) merge_modules<Access>(Access::block(result.model, place), report);
  result.tensors_changed = report.tensors_changed;
  if (report.change > 0) result.rounding_loss = std::sqrt(report.lost / report.change);
  return result;
}

}  // namespace offsite
