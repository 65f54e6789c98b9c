#pragma once
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <numeric>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "offsite/blocks/visit_parameters.hpp"
#include "offsite/core/tensors.hpp"
#include "offsite/io/checkpoint_folder.hpp"
#include "offsite/io/model_files.hpp"
#include "offsite/io/staged_folder.hpp"
#include "offsite/models/checkpoint_model.hpp"

namespace offsite {

namespace detail {

/// How a folder spells a model's keys: with the prefix of the full model's names, or without.
struct KeySpelling {
  std::string prefix;
  bool bare = false;  ///< without

  KeySpelling(const CheckpointFolder& folder, std::string_view of_model)
      : prefix(of_model),
        bare(std::none_of(folder.names().begin(), folder.names().end(),
                          [&](const auto& name) { return name.starts_with(of_model); })) {}

  [[nodiscard]] std::string spelled(std::string_view full) const {
    return std::string(bare && full.starts_with(prefix) ? full.substr(prefix.size()) : full);
  }
};

/// The file of a folder that holds a key; the folder itself if none does and there are several.
[[nodiscard]] inline std::string file_holding(const CheckpointFolder& folder, std::string_view key) {
  for (const auto& file : folder.files())
    if (file.contains(key)) return file.path().string();
  return (folder.files().size() == 1 ? folder.files().front().path() : folder.path()).string();
}

/// One weight of a folder, checked. \throws ProtocolError if it is missing, misshaped or no floating type.
[[nodiscard]] inline TensorView weight_at(const CheckpointFolder& folder, std::string_view key,
                                          std::span<const std::int64_t> shape) {
  require<ProtocolError>(folder.contains(key), "{} lacks the tensor {} of shape {}",
                         file_holding(folder, key), shown(key), shape_text(shape));
  auto view = folder.at(key);
  require<ProtocolError>(std::equal(shape.begin(), shape.end(), view.shape.begin(), view.shape.end()),
                         "tensor {} of {} has shape {}, but the configuration asks for {}", shown(key),
                         file_holding(folder, key), shape_text(view.shape), shape_text(shape));
  require<ProtocolError>(is_weight_dtype(view.dtype),
                         "tensor {} of {} is of type {}, but weights are F32, F16, BF16 or F64", shown(key),
                         file_holding(folder, key), dtype_name(view.dtype));
  return view;
}

[[nodiscard]] inline bool same_contents(const TensorView& a, const TensorView& b) {
  return a.dtype == b.dtype && a.shape == b.shape &&
         (a.bytes.empty() || std::memcmp(a.bytes.data(), b.bytes.data(), a.bytes.size()) == 0);
}

/// Checks every key of a folder that no parameter took: a buffer, a tied head that equals its tensor, or an
/// error. \param taken  the keys of the model's parameters
template <class M>
void check_other_keys(const CheckpointFolder& folder, const KeySpelling& spelling,
                      const std::set<std::string, std::less<>>& taken) {
  const auto tied_to = spelling.spelled(M::kTiedTo);
  for (const auto& key : folder.names()) {
    if (taken.contains(key) || M::is_buffer(key)) continue;
    const auto file = file_holding(folder, key);
    require<ProtocolError>(!taken.contains(spelling.prefix + key),
                           "{} holds the tensor {} without the prefix '{}' that others have, but a folder "
                           "spells all of them one way",
                           file, shown(key), spelling.prefix);
    require<ProtocolError>(key == M::kTiedKey,
                           "{} holds the tensor {}, which is no part of a {} model of this configuration",
                           file, shown(key), M::kModelType);
    require<ProtocolError>(
        same_contents(folder.at(key), folder.at(tied_to)),
        "{} holds a tensor {} that differs from {}, but the configuration says that they are tied", file,
        shown(key), shown(tied_to));
  }
}

[[nodiscard]] inline std::vector<std::int64_t> all_blocks(std::int64_t depth) {
  std::vector<std::int64_t> numbers(static_cast<std::size_t>(depth));
  std::iota(numbers.begin(), numbers.end(), 0);
  return numbers;
}

/// Reads a configuration; messages of `from_json` get the file's name. \throws ProtocolError
template <CheckpointModel M>
[[nodiscard]] ConfigOf<M> config_of(const Json& json, const std::string& file) {
  require<ProtocolError>(json.is_object(), "{} is no JSON object", file);
  if (const auto* type = json.find("model_type"); type != nullptr && type->is_string()) {
    const auto& found = type->text();
    require<ProtocolError>(reads_model_type<M>(found), "{} is of model type {}, but this reads '{}'", file,
                           shown(found), M::kModelType);
  }
  try {
    return ConfigOf<M>::from_json(json);
  } catch (const ProtocolError& error) {
    throw ProtocolError(formatted("{}: {}", file, error.what()));
  }
}

}  // namespace detail

/// The `model_type` that a folder's `config.json` names: which model reads it.
/// \throws ArgumentError if there is none to read, ProtocolError if it names none.
[[nodiscard]] inline std::string model_type_of(const std::filesystem::path& folder) {
  const auto path = folder / "config.json";
  std::error_code unseen;
  require(std::filesystem::is_directory(folder, unseen), "{} is no folder, but a model is a folder",
          folder.string());
  const auto config = read_json(path);
  const auto* type = config.find("model_type");
  require<ProtocolError>(type != nullptr && type->is_string(), "{} holds no text 'model_type'",
                         path.string());
  return type->get<std::string>();
}

/// Reads a model folder as Hugging Face writes it. Weights stay in the mapped files, in their own types: they
/// are read when touched, and not copied.
///
/// Keys may lack the model's prefix (all or none). Known buffers are passed over; a tied head may be absent,
/// or present and equal. \throws ArgumentError if the folder or its configuration cannot be read.
/// \throws ProtocolError for another model type, or a tensor that is missing, extra, misshaped or no float.
template <CheckpointModel M>
[[nodiscard]] M load_model(const std::filesystem::path& path) {
  const CheckpointFolder folder(path);
  const auto config = detail::config_of<M>(folder.config(), (path / "config.json").string());
  const detail::KeySpelling spelling(folder, M::kKeyPrefix);
  std::set<std::string, std::less<>> taken;
  M model = M::build(config, detail::all_blocks(config.num_blocks()),
                     [&](std::string_view full, at::IntArrayRef shape) {
                       auto key = spelling.spelled(full);
                       const auto view = detail::weight_at(folder, key, shape);
                       auto tensor = tensor_over(view, folder.owner(key));
                       taken.insert(std::move(key));
                       return tensor;
                     });
  detail::check_other_keys<M>(folder, spelling, taken);
  return model;
}

/// How a model folder is written.
struct SaveModelOptions {
  std::optional<Dtype> dtype{};                   ///< of all weights; none = each as in the source
  std::uint64_t max_shard_bytes = 5'000'000'000;  ///< data in one file, > 0
  StagedFolder::Existing existing = StagedFolder::kRefuse;
};

namespace detail {

/// A tensor's bytes in this type, and what keeps them alive.
struct HeldView {
  at::Tensor keeps;
  TensorView view;
};

[[nodiscard]] inline HeldView held_view(const at::Tensor& tensor, Dtype dtype) {
  HeldView held{tensor.detach().to(at::kCPU, scalar_type_of(dtype)).contiguous(), {}};
  held.view = view_of(held.keeps);
  return held;
}

/// Writes a source folder's `config.json`: byte for byte, or with another type of the weights.
inline void write_config(const std::filesystem::path& source, const std::filesystem::path& out,
                         std::optional<Dtype> dtype) {
  if (!dtype) return copy_one_file(source / "config.json", out / "config.json");
  auto config = read_json(source / "config.json");
  // Older files say torch_dtype, newer ones dtype.
  for (const auto* field : {"torch_dtype", "dtype"})
    if (config.contains(field)) config[field] = weight_dtype_name(*dtype);
  if (!config.contains("torch_dtype") && !config.contains("dtype"))
    config["torch_dtype"] = weight_dtype_name(*dtype);
  write_json(out / "config.json", config);
}

}  // namespace detail

/// Writes a model of all blocks as a folder that `from_pretrained` loads, in the manner of the folder
/// `source` that it was read from: the same configuration, keys, types, buffers, tokenizer files.
///
/// Unchanged tensors are the same bytes; a tied copy in the file follows its tensor. All or nothing.
/// \throws ArgumentError if `out` holds something, or is `source`, or the model does not fit the source.
/// \throws ProtocolError if the source's configuration cannot be used.
template <CheckpointModel M>
void save_model(M& model, const std::filesystem::path& source, const std::filesystem::path& out,
                const SaveModelOptions& options = {}) {
  const CheckpointFolder from(source);
  const auto config = detail::config_of<M>(from.config(), (source / "config.json").string());
  const detail::KeySpelling spelling(from, M::kKeyPrefix);
  if (options.dtype) (void)weight_dtype_name(*options.dtype);
  std::error_code unseen;
  require(!std::filesystem::equivalent(source, out, unseen),
          "{} is the folder that the model was read from: name another", out.string());

  std::map<std::string, at::Tensor, std::less<>> tensors;
  visit_parameters<BlockAccess<M>>(
      model, detail::all_blocks(config.num_blocks()),
      [&](const std::string& full, const at::Tensor& tensor) { tensors[spelling.spelled(full)] = tensor; });
  for (const auto& [key, tensor] : tensors)
    require(from.contains(key), "the model holds the tensor {}, but {} does not", detail::shown(key),
            source.string());
  const auto tied_to = spelling.spelled(M::kTiedTo);
  if (from.contains(M::kTiedKey) && tensors.contains(tied_to))
    tensors.emplace(M::kTiedKey, tensors.at(tied_to));  // an untied head is there already

  std::vector<at::Tensor> kept;
  std::vector<NamedView> views;
  for (const auto& key : from.names()) {
    auto view = from.at(key);
    if (const auto found = tensors.find(key); found != tensors.end()) {
      view = detail::weight_at(from, key, found->second.sizes());
      auto held = detail::held_view(found->second, options.dtype.value_or(view.dtype));
      kept.push_back(std::move(held.keeps));
      view = std::move(held.view);
    } else {
      require(M::is_buffer(key), "{} holds the tensor {}, but the model does not", source.string(),
              detail::shown(key));
    }
    views.push_back({key, std::move(view)});
  }

  StagedFolder folder(out, options.existing);
  detail::write_config(source, folder.path(), options.dtype);
  copy_tokenizer(source, folder.path());
  if (std::filesystem::exists(source / "generation_config.json", unseen))
    detail::copy_one_file(source / "generation_config.json", folder.path() / "generation_config.json");
  SaveOptions shards;
  shards.max_shard_bytes = options.max_shard_bytes;
  save_checkpoint(folder.path(), views, shards);
  folder.commit();
}

}  // namespace offsite
