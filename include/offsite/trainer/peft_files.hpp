#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "offsite/blocks/visit_linears.hpp"
#include "offsite/core/tensors.hpp"
#include "offsite/io/checkpoint_folder.hpp"
#include "offsite/io/hostile_object.hpp"
#include "offsite/io/json.hpp"
#include "offsite/io/model_folder.hpp"
#include "offsite/io/staged_folder.hpp"
#include "offsite/models/checkpoint_model.hpp"

// What folders of modules have in common: `adapter_config.json` and `adapter_model.safetensors`, as PEFT lays them out.

namespace offsite::detail {

inline constexpr std::string_view kPeftPrefix = "base_model.model.";

/// Whether a setting of PEFT is off.
[[nodiscard]] inline bool is_off(const Json& value) {
  return value.is_null() || value == Json(false) ||
         ((value.is_object() || value.is_array()) && value.empty()) || value == Json("none");
}

/// The tensors of a folder, each taken once.
template <CheckpointModel M>
class PeftReader {
  using Access = BlockAccess<M>;

 public:
  explicit PeftReader(const std::filesystem::path& path) : folder_(path, "adapter_model") {}

  /// Calls `f(full name, key, layer)` for each linear layer of which the folder holds `key + suffix`.
  /// \param numbers  the full model's number of each of the model's blocks
  template <class F>
  void visit(M& model, const std::vector<std::int64_t>& numbers, std::string_view suffix, F&& f) {
    for (std::int64_t place = 0; place < Access::num_blocks(model); ++place) {
      const auto prefix = block_prefix<Access>(numbers.at(static_cast<std::size_t>(place)));
      visit_linears<Access>(Access::block(model, place), [&](std::string_view name, Linear& layer) {
        const auto full = prefix + std::string(name);
        const auto bare = full.starts_with(M::kKeyPrefix) ? full.substr(M::kKeyPrefix.size()) : full;
        for (const auto& spelled : {full, bare}) {
          const auto key = std::string(kPeftPrefix) + spelled;
          if (folder_.contains(key + std::string(suffix))) return f(full, key, layer);
        }
      });
    }
  }
  /// A tensor as float32, copied. \throws ProtocolError if it is missing, misshaped or no float.
  [[nodiscard]] at::Tensor take(const std::string& key, const std::vector<std::int64_t>& shape) {
    const auto view = weight_at(folder_, key, shape);
    taken_.insert(key);
    return tensor_over(view, folder_.owner(key)).to(at::kFloat, false, /*copy=*/true);
  }
  /// \throws ProtocolError unless every tensor was taken, and there was one.
  void check_all_taken() const {
    for (const auto& name : folder_.names())
      require<ProtocolError>(taken_.contains(name),
                             "{} holds the tensor {}, which belongs to no linear layer of the model's blocks",
                             file_holding(folder_, name), shown(name));
    require<ProtocolError>(!taken_.empty(), "{} holds no tensor", folder_.path().string());
  }

 private:
  CheckpointFolder folder_;
  std::set<std::string, std::less<>> taken_;
};

/// Gathers the modules of a model's layers, and writes them as a folder.
class PeftWriter {
 public:
  /// Begins a layer. \param place  its block's number, ascending; \param name  within the block
  void begin(std::int64_t place, std::string_view name, const std::string& full) {
    full_names_.push_back(full);
    names_.emplace(name);
    if (blocks_.empty() || blocks_.back() != place) blocks_.push_back(place);
  }
  /// A tensor of the layer begun last.
  void add(std::string_view suffix, const at::Tensor& tensor) {
    kept_.push_back(tensor.detach().to(at::kCPU, at::kFloat).contiguous());
    views_.push_back(
        {std::string(kPeftPrefix) + full_names_.back() + std::string(suffix), view_of(kept_.back())});
  }
  [[nodiscard]] bool empty() const { return views_.empty(); }

  /// PEFT takes layers by the ends of their names within these blocks; where blocks differ, each by its full name.
  void name_layers(Json& config) const {
    const bool alike = full_names_.size() == names_.size() * blocks_.size();
    if (alike) config["layers_to_transform"] = Json(blocks_);
    config["target_modules"] =
        alike ? Json(std::vector<std::string>(names_.begin(), names_.end())) : Json(full_names_);
  }
  /// Writes the folder, all or nothing.
  void write(const Json& config, const std::filesystem::path& out, StagedFolder::Existing existing) const {
    StagedFolder folder(out, existing);
    write_json(folder.path() / "adapter_config.json", config);
    save_safetensors(folder.path() / "adapter_model.safetensors", views_, {{"format", "pt"}});
    folder.commit();
  }

 private:
  std::vector<at::Tensor> kept_;
  std::vector<NamedView> views_;
  std::vector<std::string> full_names_;
  std::set<std::string> names_;
  std::vector<std::int64_t> blocks_;
};

}  // namespace offsite::detail
