#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/count_nonzero.h>
#include <ATen/ops/eq.h>

#include <cmath>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "offsite/blocks/visit_parameters.hpp"
#include "offsite/core/error.hpp"
#include "offsite/core/split_plan.hpp"

namespace offsite {

/// What an offer tells of the owner's model, before it leaves.
struct DisclosureReport {
  std::int64_t blocks = 0;             ///< of the full model
  std::vector<std::int64_t> bottom;    ///< adapter blocks below the emulator; numbers are the full model's
  std::vector<std::int64_t> emulator;  ///< blocks that stand in for the middle
  std::vector<std::int64_t> top;       ///< adapter blocks above the emulator
  std::vector<std::int64_t> adapters;  ///< all adapter blocks, where some lie within the emulator; else empty
  std::int64_t parameters = 0;         ///< of the full model, tied ones once
  std::int64_t offer_parameters = 0;   ///< of the offer
  double verbatim_share = 0;           ///< offer's parameters equal to the original's / `parameters`, 0..1
  bool rebuildable = false;            ///< every block of the full model is in the offer, verbatim
  std::int64_t bytes = 0;              ///< of the offer's tensors
  std::optional<double> emulator_score{};  ///< accuracy of the offer as it leaves, 0..1

  /// For people: a line per fact, in two columns.
  [[nodiscard]] std::vector<std::string> lines() const;
};

namespace detail {

/// "0-2, 5": runs of numbers; "none" without any.
[[nodiscard]] inline std::string runs_text(std::span<const std::int64_t> numbers) {
  if (numbers.empty()) return "none";
  std::string text;
  for (std::size_t i = 0, first = 0; i < numbers.size(); ++i) {
    if (i + 1 < numbers.size() && numbers[i + 1] == numbers[i] + 1) continue;
    if (!text.empty()) text += ", ";
    text += first == i ? formatted("{}", numbers[i]) : formatted("{}-{}", numbers[first], numbers[i]);
    first = i + 1;
  }
  return text;
}

/// How many numbers of `offered` are what the original's become in its dtype. Rounding hides too little to
/// count as another value.
[[nodiscard]] inline std::int64_t verbatim_numbers(const at::Tensor& original, const at::Tensor& offered) {
  if (original.sizes() != offered.sizes()) return 0;
  if (original.const_data_ptr() == offered.const_data_ptr() &&
      original.scalar_type() == offered.scalar_type() && original.strides() == offered.strides())
    return offered.numel();
  // count_nonzero, since a sum of truth values first makes an int64 of each.
  return at::count_nonzero(offered.detach().eq(original.detach().to(offered.options())))
      .template item<std::int64_t>();
}

}  // namespace detail

inline std::vector<std::string> DisclosureReport::lines() const {
  std::vector<std::string> result;
  const auto line = [&](std::string_view name, const std::string& value) {
    result.push_back(formatted("{:<20}{}", name, value));
  };
  line("blocks", formatted("{}, numbered 0 to {}", blocks, blocks - 1));
  if (adapters.empty()) {
    line("bottom adapter", detail::runs_text(bottom));
    line("emulator", detail::runs_text(emulator));
    line("top adapter", detail::runs_text(top));
  } else {
    line("adapters", detail::runs_text(adapters));
    line("emulator", detail::runs_text(emulator));
  }
  line("parameters", formatted("{} of {} leave", offer_parameters, parameters));
  line("verbatim share", formatted("{:.1f} %", 100 * verbatim_share));
  line("rebuildable",
       rebuildable ? "yes: every block leaves as it is" : "no: some blocks stay with the owner");
  line("bytes", formatted("{}", bytes));
  if (emulator_score) line("emulator's score", formatted("{:.4f}", *emulator_score));
  return result;
}

/// Compares an offer with the full model, tensor by tensor.
/// \param plan     which blocks of `full` `offered` holds
/// \param missing  full names of shared parameters that do not travel
template <class Access, class Model>
[[nodiscard]] DisclosureReport disclose(Model& full, Model& offered, const SplitPlan& plan,
                                        const std::set<std::string, std::less<>>& missing = {}) {
  DisclosureReport r;
  r.blocks = plan.depth;
  r.bottom = plan.bottom();
  r.emulator = plan.emulator;
  r.top = plan.top();
  if (r.bottom.size() + r.top.size() != plan.adapters.size()) r.adapters = plan.adapters;

  std::vector<std::int64_t> all(static_cast<std::size_t>(plan.depth));
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::int64_t>(i);
  const auto kept = plan.kept();
  std::map<std::string, at::Tensor, std::less<>> originals;
  visit_parameters<Access>(full, all, [&](const std::string& name, const at::Tensor& tensor) {
    originals.emplace(name, tensor);
    r.parameters += tensor.numel();
  });
  std::int64_t verbatim = 0;
  bool altered = false;
  std::set<std::string> shared;
  full.visit_shared([&](std::string_view name, const at::Tensor&) { shared.emplace(name); });
  visit_parameters<Access>(offered, kept, [&](const std::string& name, const at::Tensor& tensor) {
    if (missing.contains(name)) return;
    r.offer_parameters += tensor.numel();
    r.bytes += static_cast<std::int64_t>(tensor.nbytes());
    const auto original = originals.find(name);
    const auto same = original == originals.end() ? 0 : detail::verbatim_numbers(original->second, tensor);
    verbatim += same;
    // What the original lacks, such as an adapter policy's own tensors, hides nothing of it.
    altered = altered || (original != originals.end() && same != tensor.numel() && !shared.contains(name));
  });
  r.verbatim_share = static_cast<double>(verbatim) / static_cast<double>(r.parameters);
  r.rebuildable = !altered && static_cast<std::int64_t>(kept.size()) == plan.depth;
  return r;
}

/// What an owner lets out. By default everything but a model that can be put together again.
struct DisclosurePolicy {
  std::optional<double> max_verbatim_share{};  ///< 0..1; 1 lets a rebuildable offer out too
  std::optional<double> max_emulator_score{};  ///< of the report's `emulator_score`, 0..1

  /// \throws ArgumentError if a limit is none, or the report exceeds one.
  void enforce(const DisclosureReport& report) const {
    const double share = max_verbatim_share.value_or(1), score = max_emulator_score.value_or(1);
    require(0 <= share && share <= 1, "max_verbatim_share is {}, but a share lies in 0 to 1", share);
    require(0 <= score && score <= 1, "max_emulator_score is {}, but a score lies in 0 to 1", score);
    require(
        !report.rebuildable || (max_verbatim_share && share == 1),
        "the offer is refused: it holds all {} blocks as they are, so that a client could rebuild the model; "
        "keep fewer than {} emulator blocks, or lift this with --max-verbatim 1",
        report.blocks, report.emulator.size());
    require(report.verbatim_share <= share,
            "the offer is refused: it holds {:.4f} of the model's parameters as they are, but --max-verbatim "
            "is {}",
            report.verbatim_share, share);
    if (!max_emulator_score) return;
    require(report.emulator_score.has_value(),
            "max_emulator_score is {}, but the emulator was not scored: name a task and its data", score);
    require(*report.emulator_score <= score,
            "the offer is refused: the emulator alone scores {:.4f}, but --max-emulator-score is {}",
            *report.emulator_score, score);
  }
};

}  // namespace offsite
