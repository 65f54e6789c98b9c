#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/core/tensor_view.hpp"
#include "offsite/io/json.hpp"
#include "offsite/io/safetensors.hpp"

namespace offsite {

namespace detail {

/// Whether `name` names a file in its folder and nothing elsewhere.
[[nodiscard]] inline bool is_plain_file_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\\\0", 3)) == name.npos;
}

/// Reads an index's `weight_map`: for each shard's file name the tensors it holds.
/// \throws ProtocolError if it is not an object of plain file names.
[[nodiscard]] inline std::map<std::string, std::set<std::string>> read_weight_map(
    const std::filesystem::path& path) {
  const auto index = read_json(path);
  const auto* map = index.find("weight_map");
  require<ProtocolError>(map != nullptr && map->is_object(), "{} holds no object 'weight_map'",
                         path.string());
  std::map<std::string, std::set<std::string>> shards;
  for (const auto& [tensor, file] : map->items()) {
    require<ProtocolError>(file.is_string(), "{} gives for tensor {} something that is not a file name",
                           path.string(), shown(tensor));
    const auto& name = file.text();
    require<ProtocolError>(
        is_plain_file_name(name) && name.ends_with(".safetensors"),
        "{} puts tensor {} into {}, which is not the plain name of a safetensors file in this folder",
        path.string(), shown(tensor), shown(name));
    shards[name].insert(tensor);
  }
  return shards;
}

/// Says for a folder without safetensors files what it holds instead.
[[noreturn]] inline void refuse_folder(const std::filesystem::path& folder, const std::string& wanted) {
  std::error_code unreadable;
  for (const auto& entry : std::filesystem::directory_iterator(folder, unreadable)) {
    const auto name = entry.path().filename().string();
    if (name.starts_with("pytorch_model") || name.ends_with(".pt") || name.ends_with(".pth"))
      throw ArgumentError(formatted(
          "{} holds its weights only as {}, a pickle, which can run code when read: convert it with 'python3 "
          "examples/convert_checkpoint.py {}'",
          folder.string(), name, folder.string()));
  }
  throw ArgumentError(formatted("{} holds neither {} nor {}.index.json", folder.string(), wanted, wanted));
}

}  // namespace detail

/// A folder of weights as Hugging Face writes it, opened for reading.
///
/// The weights are in `model.safetensors`, or in shards that `model.safetensors.index.json` lists; if both
/// are there, the single file counts, as for `from_pretrained`. Shards and index must agree in every name.
/// Copies share the mappings.
class CheckpointFolder {
 public:
  /// `stem`: the part of the file name before ".safetensors", e.g. "model" or "adapter_model".
  /// \throws ArgumentError if there is no such folder, or it holds no weights, or only pickles.
  /// \throws ProtocolError if index and shards disagree or one breaks its format.
  explicit CheckpointFolder(std::filesystem::path folder, std::string_view stem = "model")
      : path_(std::move(folder)) {
    namespace fs = std::filesystem;
    std::error_code unseen;
    require(fs::is_directory(path_, unseen), "{} is no folder, but a checkpoint is a folder", path_.string());
    const auto single = std::string(stem) + ".safetensors";
    const auto index = path_ / (single + ".index.json");
    if (fs::exists(path_ / single, unseen)) {
      add(SafetensorsFile(path_ / single));
    } else if (fs::exists(index, unseen)) {
      for (const auto& [file, tensors] : detail::read_weight_map(index)) add_shard(index, file, tensors);
    } else {
      detail::refuse_folder(path_, single);
    }
    for (const auto& [name, file] : where_) names_.push_back(name);
  }

  /// All tensors' names, sorted.
  [[nodiscard]] const std::vector<std::string>& names() const { return names_; }

  [[nodiscard]] bool contains(std::string_view name) const { return where_.contains(name); }

  /// One tensor, whose bytes live as long as `owner(name)`. \throws ProtocolError if the folder lacks it.
  [[nodiscard]] TensorView at(std::string_view name) const { return file_of(name).at(name); }

  /// What keeps the tensor's bytes mapped. \throws ProtocolError if the folder lacks it.
  [[nodiscard]] std::shared_ptr<const void> owner(std::string_view name) const {
    return file_of(name).owner();
  }

  /// The safetensors files, in the order of their names.
  [[nodiscard]] const std::vector<SafetensorsFile>& files() const { return files_; }

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

  /// Reads `config.json`. \throws ArgumentError if it is missing, ProtocolError if it is no JSON object.
  [[nodiscard]] Json config() const {
    auto config = read_json(path_ / "config.json");
    require<ProtocolError>(config.is_object(), "{} is no JSON object", (path_ / "config.json").string());
    return config;
  }

 private:
  void add(SafetensorsFile file) {
    for (const auto& name : file.names()) where_.emplace(name, files_.size());
    files_.push_back(std::move(file));
  }

  void add_shard(const std::filesystem::path& index, const std::string& file_name,
                 const std::set<std::string>& tensors) {
    std::error_code unseen;
    require<ProtocolError>(std::filesystem::exists(path_ / file_name, unseen),
                           "{} lists the shard {}, but the folder lacks it", index.string(),
                           detail::shown(file_name));
    SafetensorsFile file(path_ / file_name);
    for (const auto& name : tensors)
      require<ProtocolError>(file.contains(name), "{} puts tensor {} into {}, but that file does not hold it",
                             index.string(), detail::shown(name), detail::shown(file_name));
    for (const auto& name : file.names())
      require<ProtocolError>(tensors.contains(name), "{} holds tensor {}, but {} does not put it there",
                             file.path().string(), detail::shown(name), index.string());
    add(std::move(file));
  }

  [[nodiscard]] const SafetensorsFile& file_of(std::string_view name) const {
    const auto found = where_.find(name);
    require<ProtocolError>(found != where_.end(), "the checkpoint {} holds no tensor {}", path_.string(),
                           detail::shown(name));
    return files_[found->second];
  }

  std::filesystem::path path_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, std::size_t, std::less<>> where_;
  std::vector<std::string> names_;
};

/// How weights are written to a folder.
struct SaveOptions {
  std::uint64_t max_shard_bytes =
      5'000'000'000;           ///< data in one file, > 0; a larger tensor gets a file of its own
  std::string stem = "model";  ///< file name before ".safetensors"
  /// `from_pretrained` asks for the format: "pt" says that the tensors are laid out as PyTorch's.
  std::map<std::string, std::string> metadata{{"format", "pt"}};
};

/// Writes weights to an existing folder: one safetensors file, or shards with an index if they exceed
/// `max_shard_bytes`. The tensors keep their order over the shards; their bytes are not copied.
///
/// Each file appears whole, but a folder of several not at once: write it within a `StagedFolder`.
/// \throws ArgumentError if the folder holds weights of that stem already (a reader could take the wrong
/// ones), if names or sizes do not fit, or a file cannot be written.
inline void save_checkpoint(const std::filesystem::path& folder, std::span<const NamedView> tensors,
                            const SaveOptions& options = {}) {
  require(options.max_shard_bytes > 0, "max_shard_bytes is 0, but a shard must hold something");
  std::error_code unreadable;
  const auto single = options.stem + ".safetensors";
  for (const auto& entry : std::filesystem::directory_iterator(folder, unreadable)) {
    const auto name = entry.path().filename().string();
    const bool shard = name.starts_with(options.stem + "-") && name.ends_with(".safetensors");
    require(!shard && name != single && name != single + ".index.json",
            "{} holds the weights {} already: write to another folder", folder.string(), name);
  }
  require(!unreadable, "cannot write to the folder {}: {}", folder.string(), unreadable.message());
  (void)detail::writing_order(
      tensors);  // names must be unique over all shards, and nothing written if they are not

  std::vector<std::span<const NamedView>> shards;
  std::uint64_t total = 0, filled = 0;
  for (std::size_t i = 0, first = 0; i <= tensors.size(); ++i) {
    const auto size = i < tensors.size() ? tensors[i].tensor.bytes.size() : 0;
    if (i == tensors.size() || (i > first && filled + size > options.max_shard_bytes)) {
      shards.push_back(tensors.subspan(first, i - first));
      first = i;
      filled = 0;
    }
    filled += size;
    total += size;
  }
  if (shards.size() == 1) return save_safetensors(folder / single, shards.front(), options.metadata);

  std::map<std::string, std::string> shard_of;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const auto name = formatted("{}-{:05}-of-{:05}.safetensors", options.stem, i + 1, shards.size());
    save_safetensors(folder / name, shards[i], options.metadata);
    for (const auto& tensor : shards[i]) shard_of[tensor.name] = name;
  }
  auto weight_map = Json::object();
  for (const auto& [tensor, file] : shard_of) weight_map[tensor] = file;
  const auto index =
      Json::object({{"metadata", Json::object({{"total_size", total}})}, {"weight_map", weight_map}});
  write_json(folder / (single + ".index.json"), index);
}

}  // namespace offsite
