#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/core/parameter_layout.hpp"
#include "offsite/io/safetensors.hpp"
#include "offsite/io/split_specification.hpp"
#include "offsite/io/staged_folder.hpp"

namespace offsite {

/// What a client says of its update: the contents of `update.json`.
struct UpdateRecord {
  static constexpr std::int64_t kFormatVersion = 1;

  std::int64_t samples = 0;        ///< different samples trained on, > 0: the update's weight
  std::int64_t scored_tokens = 0;  ///< over all steps
  std::int64_t steps = 0;          ///< of the optimiser
  double loss = 0;                 ///< nats per scored token, last logging interval
  std::uint64_t seed = 0;
  std::string split_sha256{};  ///< of the offer's `split.json`; `write_update` fills it in

  bool operator==(const UpdateRecord&) const = default;

  [[nodiscard]] Json to_json() const {
    return Json::object({{"format_version", kFormatVersion},
                         {"samples", samples},
                         {"scored_tokens", scored_tokens},
                         {"steps", steps},
                         {"loss", loss},
                         {"seed", seed},
                         {"split_sha256", split_sha256}});
  }

  /// \param what  names the text in messages
  /// \throws ProtocolError saying which field is missing, unknown, of the wrong type or out of range.
  [[nodiscard]] static UpdateRecord from_json(const Json& json, const std::string& what) {
    const detail::HostileObject fields(json, what);
    const auto version = fields.integer("format_version", 0, INT64_MAX);
    require<ProtocolError>(version == kFormatVersion, "{} is of format version {}, but this reads version {}",
                           what, version, kFormatVersion);
    fields.only({"format_version", "samples", "scored_tokens", "steps", "loss", "seed", "split_sha256"});
    UpdateRecord record;
    record.samples = fields.integer("samples", 1, INT64_MAX);
    record.scored_tokens = fields.integer("scored_tokens", 0, INT64_MAX);
    record.steps = fields.integer("steps", 0, INT64_MAX);
    record.loss = fields.number("loss");
    record.seed = fields.natural("seed");
    record.split_sha256 = fields.sha256("split_sha256");
    return record;
  }
};

namespace detail {

/// Whether all numbers are finite; they may lie at any address.
[[nodiscard]] inline bool all_finite(std::span<const std::byte> floats) {
  std::uint32_t worst = 0;
  for (std::size_t i = 0; i + 4 <= floats.size(); i += 4) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, floats.data() + i, 4);
    bits &= 0x7f800000;  // all of the exponent's bits are set in infinities and NaN only
    worst = bits > worst ? bits : worst;
  }
  return worst != 0x7f800000;
}

}  // namespace detail

/// Writes an update folder, all or nothing: `update.safetensors` (float32, under full names), a copy of the
/// offer's `split.json`, and `update.json`.
///
/// \param delta  trained minus received, as `layout` lays them; not copied
/// \throws ArgumentError if the numbers do not fit the layout, or the folder cannot be written.
/// \throws NumericError if one of them is not finite.
inline void write_update(const std::filesystem::path& out, const std::filesystem::path& offer,
                         const ParameterLayout& layout, std::span<const float> delta, UpdateRecord record,
                         StagedFolder::Existing existing = StagedFolder::kRefuse) {
  require(static_cast<std::int64_t>(delta.size()) == layout.size(),
          "the update has {} numbers, but {} are trained", delta.size(), layout.size());
  require(record.samples > 0, "the update was trained on {} samples, but its weight must be positive",
          record.samples);
  require<NumericError>(std::isfinite(record.loss), "the update's loss is {}, which is not finite",
                        record.loss);
  std::vector<NamedView> views;
  for (const auto& tensor : layout.tensors()) {
    const auto part =
        delta.subspan(static_cast<std::size_t>(tensor.offset), static_cast<std::size_t>(tensor.numel));
    require<NumericError>(detail::all_finite(std::as_bytes(part)),
                          "the update of tensor {} holds a number that is not finite", tensor.name);
    views.push_back({tensor.name, {Dtype::kF32, tensor.shape, std::as_bytes(part)}});
  }
  record.split_sha256 = file_sha256(offer / "split.json");
  StagedFolder folder(out, existing);
  detail::copy_one_file(offer / "split.json", folder.path() / "split.json");
  save_safetensors(folder.path() / "update.safetensors", views, {{"format", "pt"}});
  write_json(folder.path() / "update.json", record.to_json());
  folder.commit();
}

/// An update folder, opened and checked: nothing in it is taken on trust.
class UpdateFolder {
 public:
  /// \throws ArgumentError if a file is missing.
  /// \throws ProtocolError if one breaks its format, or `update.json` was written for another `split.json`,
  /// or a tensor is none of the split's adapters, misshaped, not float32 or not finite.
  explicit UpdateFolder(std::filesystem::path path)
      : path_(existing(std::move(path))),
        split_(SplitSpecification::read(path_ / "split.json")),
        record_(UpdateRecord::from_json(read_json(path_ / "update.json"), (path_ / "update.json").string())),
        tensors_(path_ / "update.safetensors") {
    const auto hash = file_sha256(path_ / "split.json");
    require<ProtocolError>(hash == record_.split_sha256,
                           "{} was written for a split.json of SHA-256 {}, but the one beside it has {}",
                           (path_ / "update.json").string(), record_.split_sha256, hash);
    for (const auto& name : tensors_.names()) {
      const auto view = tensors_.at(name);
      const auto known = split_.tensors.find(name);
      const auto check = [&](bool condition, const std::string& problem) {
        require<ProtocolError>(condition, "tensor {} of {} {}", detail::shown(name), tensors_.path().string(),
                               problem);
      };
      check(known != split_.tensors.end(), "is no tensor of the split that it was made for");
      check(view.shape == known->second.shape,
            formatted("has shape {}, but {} in the split", shape_text(view.shape),
                      shape_text(known->second.shape)));
      check(view.dtype == Dtype::kF32,
            formatted("is of type {}, but updates are F32", dtype_name(view.dtype)));
      check(detail::all_finite(view.bytes), "holds a number that is not finite");
    }
  }

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] const UpdateRecord& record() const { return record_; }
  [[nodiscard]] const SplitSpecification& split() const { return split_; }  ///< that it was made for

  /// \throws ProtocolError saying what differs unless the update was made for this split.
  void check_made_for(const SplitSpecification& expected) const {
    const auto difference = explain_difference(expected, split_);
    require<ProtocolError>(difference.empty(), "the update {} was made for another split: {}", path_.string(),
                           difference);
  }

  /// Trained minus received, laid out as the owner lays it. \param to  `layout.size()` numbers
  /// \throws ProtocolError unless the update holds exactly the layout's tensors.
  void read_delta(const ParameterLayout& layout, std::span<float> to) const {
    require(static_cast<std::int64_t>(to.size()) == layout.size(),
            "{} numbers were to be read, but {} are trained", to.size(), layout.size());
    for (const auto& name : tensors_.names())
      require<ProtocolError>(layout.find(name) != nullptr, "{} holds the tensor {}, which does not train",
                             tensors_.path().string(), detail::shown(name));
    for (const auto& tensor : layout.tensors()) {
      require<ProtocolError>(tensors_.contains(tensor.name), "{} lacks the tensor {} of shape {}",
                             tensors_.path().string(), detail::shown(tensor.name), shape_text(tensor.shape));
      const auto view = tensors_.at(tensor.name);
      require<ProtocolError>(view.shape == tensor.shape, "tensor {} of {} has shape {}, but {} trains",
                             detail::shown(tensor.name), tensors_.path().string(), shape_text(view.shape),
                             shape_text(tensor.shape));
      if (!view.bytes.empty()) std::memcpy(to.data() + tensor.offset, view.bytes.data(), view.bytes.size());
    }
  }

 private:
  static std::filesystem::path existing(std::filesystem::path path) {
    std::error_code unseen;
    require(std::filesystem::is_directory(path, unseen), "{} is no folder, but an update is a folder",
            path.string());
    return path;
  }

  std::filesystem::path path_;
  SplitSpecification split_;
  UpdateRecord record_;
  SafetensorsFile tensors_;
};

}  // namespace offsite
