#pragma once
#include <Eigen/Core>

#include <filesystem>
#include <string>

#include "offsite/adapters/adapter_policy.hpp"
#include "offsite/aggregation/aggregation_policy.hpp"
#include "offsite/blocks/block_access.hpp"
#include "offsite/core/parameter_layout.hpp"
#include "offsite/io/model_folder.hpp"
#include "offsite/io/sha256.hpp"
#include "offsite/io/update_folder.hpp"
#include "offsite/models/checkpoint_model.hpp"

namespace offsite {

/// What an update folder brings to aggregation: its numbers as the owner's layout lays them, and as weight
/// the number of samples. \throws ProtocolError unless it holds exactly the layout's tensors.
[[nodiscard]] inline ClientUpdate client_update(const UpdateFolder& folder, const ParameterLayout& layout) {
  ClientUpdate update{Eigen::VectorXf(layout.size()), static_cast<double>(folder.record().samples)};
  folder.read_delta(layout, {update.delta.data(), static_cast<std::size_t>(layout.size())});
  return update;
}

/// Checks that a split was made of the model in a folder: its type, its configuration, and every tensor of
/// the adapter blocks, by SHA-256.
/// \throws ProtocolError saying what differs first.
template <CheckpointModel M>
void check_update_fits(const std::filesystem::path& model, const SplitSpecification& split) {
  const CheckpointFolder folder(model);
  const auto check = [&](const std::string& difference) {
    require<ProtocolError>(difference.empty(), "the update was not made for the model {}: {}", model.string(),
                           difference);
  };
  const auto config = folder.config();
  check(reads_model_type<M>(split.model_type) ? ""
                                              : formatted("the model type is {}, but '{}' was expected",
                                                          detail::shown(split.model_type), M::kModelType));
  check(detail::explain_config_difference(config, split.config));
  const auto depth = detail::config_of<M>(config, (model / "config.json").string()).num_blocks();
  check(split.plan.depth == depth
            ? ""
            : formatted("the number of blocks is {}, but {} was expected", split.plan.depth, depth));

  const detail::KeySpelling spelling(folder, M::kKeyPrefix);
  for (const auto number : split.plan.adapters) {
    const auto prefix = block_prefix<BlockAccess<M>>(number);
    for (auto at = split.tensors.lower_bound(prefix);
         at != split.tensors.end() && at->first.starts_with(prefix); ++at) {
      if (detail::is_module_name(at->first)) continue;  // the policy's own: see `check_modules_fit`
      const auto key = spelling.spelled(at->first);
      check(folder.contains(key) ? "" : formatted("tensor {} is not in it", detail::shown(at->first)));
      const auto view = folder.at(key);
      check(detail::explain_tensor_difference(
          at->first, {view.dtype, view.shape, sha256_hex(view.bytes), at->second.travels}, at->second));
    }
  }
}

/// Checks that the modules of a split are those that the owner starts from: its policy has the same settings and seed.
/// \param start  the owner's values before any round, as `layout` lays them
/// \throws ProtocolError naming the first that differs.
inline void check_modules_fit(const SplitSpecification& split, const ParameterLayout& layout,
                              const Eigen::VectorXf& start) {
  for (const auto& tensor : layout.tensors()) {
    if (!detail::is_module_name(tensor.name)) continue;
    const auto record = split.tensors.find(tensor.name);
    const std::span<const float> values(start.data() + tensor.offset, static_cast<std::size_t>(tensor.numel));
    // A magnitude is a norm, whose last bit may be another on another machine.
    const bool same = record != split.tensors.end() && record->second.shape == tensor.shape &&
                      (tensor.name.ends_with("magnitude_vector") ||
                       record->second.sha256 == sha256_hex(std::as_bytes(values)));
    require<ProtocolError>(
        same, "the update was not made for this model: {} starts otherwise than the policy '{}' says",
        detail::shown(tensor.name), split.adapter_policy);
  }
}

}  // namespace offsite
