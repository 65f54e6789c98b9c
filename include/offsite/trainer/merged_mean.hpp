#pragma once
#include <Eigen/Core>

#include <ATen/core/Tensor.h>
#include <ATen/ops/eq.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/where.h>
#include <c10/core/GradMode.h>

#include <cmath>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "offsite/aggregation/aggregation_policy.hpp"
#include "offsite/blocks/cast.hpp"
#include "offsite/trainer/plug_in.hpp"

namespace offsite {

/// Puts the weighted mean of the clients' changes into the model, each client's factors merged before the mean is taken.
///
/// Averaging the factors of low-rank changes apart is not averaging the changes, their products; this is. It ends in
/// weights, so there are no factors to go on from. For policies without factors it is FedAvg's result up to rounding.
/// Holds the trained blocks in float32 twice.
/// \param model    with the policy's modules attached
/// \param global   the values that the clients started from, as `layout` lays them
/// \throws ArgumentError as `check_updates` does.
template <class Access, class Model, class Adapters>
[[nodiscard]] PlugIn<Model> plug_in_merged_mean(const Model& model, const SplitPlan& plan,
                                                const ParameterLayout& layout, const Adapters& adapters,
                                                const Eigen::VectorXf& global,
                                                std::span<const ClientUpdate> updates) {
  const c10::NoGradGuard no_grad;
  check_updates(global.size(), updates);
  const auto blocks = trained_blocks(adapters, plan, true);
  const auto merged_tensors = [&](const Model& of, const Eigen::VectorXf& numbers, bool copy) {
    Eigen::VectorXf values = numbers;
    auto merged = plug_in<Access>(of, plan, layout, adapters,
                                  at::from_blob(values.data(), {values.size()}, at::kFloat));
    std::vector<at::Tensor> tensors;
    for (const auto place : blocks.places)
      Access::visit(Access::block(merged.model, place), [&](std::string_view, at::Tensor& tensor) {
        tensors.push_back(copy ? tensor.clone() : tensor);
      });
    return tensors;
  };
  const Model exact = cast_model<Access>(model, at::kFloat);  // rounding comes last
  const auto start = merged_tensors(exact, global, false);
  auto mean = merged_tensors(exact, global, true);
  double total = 0;
  for (const auto& update : updates) total += update.weight;
  for (const auto& update : updates) {
    const auto changed = merged_tensors(exact, global + update.delta, false);
    for (std::size_t i = 0; i < mean.size(); ++i)
      mean[i].add_(changed[i].sub(start[i]), update.weight / total);
  }

  Eigen::VectorXf values = global;
  auto result = plug_in<Access>(model, plan, layout, adapters,
                                at::from_blob(values.data(), {values.size()}, at::kFloat));
  double change = 0, lost = 0;
  std::size_t next = 0;
  for (const auto place : blocks.places)
    Access::visit(Access::block(result.model, place), [&](std::string_view, at::Tensor& slot) {
      const auto& wanted = mean[next];
      const at::Tensor same = start[next++].eq(wanted);
      if (same.all().item<bool>()) return;
      const at::Tensor rounded = wanted.to(slot.scalar_type());
      const auto square = [](const at::Tensor& t) {
        return std::pow(at::linalg_vector_norm(t, 2).item<double>(), 2);
      };
      lost += square(rounded.to(at::kFloat).sub(wanted));
      change += square(wanted.sub(slot.to(at::kFloat)));
      slot = at::where(same, slot.detach(), rounded);
      ++result.tensors_changed;
    });
  if (change > 0) result.rounding_loss = std::sqrt(lost / change);
  return result;
}

}  // namespace offsite
