#pragma once
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "offsite/blocks/visit_parameters.hpp"
#include "offsite/core/error.hpp"
#include "offsite/core/tensors.hpp"
#include "offsite/federation/blob.hpp"
#include "offsite/federation/journal.hpp"
#include "offsite/io/atomic_file.hpp"
#include "offsite/io/json.hpp"
#include "offsite/io/mapped_file.hpp"
#include "offsite/io/model_files.hpp"
#include "offsite/trainer/offer_folder.hpp"

/// An offer as a federation sends it: each tensor a blob under its full name, each file of the tokenizer one under
/// `files/NAME`. What a tensor must be stands in the split's specification, which travels with the welcome.
namespace offsite {

namespace detail {

inline constexpr std::string_view kOfferedFiles = "files/";

/// The blobs of an offer by their names. \throws ProtocolError if a name occurs twice.
[[nodiscard]] inline std::map<std::string, federation::Blob, std::less<>> blobs_by_name(
    std::span<const federation::OfferedBlob> offer) {
  std::map<std::string, federation::Blob, std::less<>> blobs;
  for (const auto& [name, blob] : offer)
    require<ProtocolError>(blobs.emplace(name, blob).second, "the offer holds {} twice", shown(name));
  return blobs;
}

/// Writes the tokenizer's files of an offer, and its configuration, into `folder`. \throws ProtocolError if they are
/// not what the split describes.
template <class View>
void write_offered_files(const SplitSpecification& split,
                         const std::map<std::string, federation::Blob, std::less<>>& blobs, const View& view,
                         const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::remove_all(folder, error);  // of an offer before
  std::filesystem::create_directories(folder, error);
  require(!error, "cannot make the folder {}: {}", folder.string(), error.message());
  write_json(folder / "config.json", split.config);
  for (const auto name : kTokenizerParts) {
    const auto blob = blobs.find(std::string(kOfferedFiles) + std::string(name));
    if (blob == blobs.end()) continue;
    const federation::BlobView held = view(blob->second.sha256);
    write_file_atomically(folder / name, std::span(&held.bytes, 1));
  }
  const auto hash = tokenizer_sha256(folder);
  require<ProtocolError>(hash == split.tokenizer_sha256,
                         "the offer's tokenizer has the SHA-256 {}, but the split says {}",
                         hash.empty() ? "of no file" : hash,
                         split.tokenizer_sha256.empty() ? "there is none" : split.tokenizer_sha256);
}

/// One tensor of an offer from its blob. \throws ProtocolError unless it is what the split says, and of that shape.
template <class View>
[[nodiscard]] at::Tensor tensor_of_blob(std::string_view name, const TensorRecord& record,
                                        const std::map<std::string, federation::Blob, std::less<>>& blobs,
                                        const View& view, at::IntArrayRef shape) {
  const auto blob = blobs.find(name);
  require<ProtocolError>(blob != blobs.end(), "the offer lacks the tensor {}", shown(name));
  require<ProtocolError>(blob->second.sha256 == record.sha256,
                         "tensor {} of the offer has the SHA-256 {}, but the split says {}", shown(name),
                         blob->second.sha256, record.sha256);
  require<ProtocolError>(at::IntArrayRef(record.shape) == shape,
                         "tensor {} of the split has shape {}, but {} is needed", shown(name),
                         shape_text(record.shape), shape_text(shape));
  const federation::BlobView held = view(record.sha256);
  require<ProtocolError>(byte_count(record.dtype, record.shape) == held.bytes.size(),
                         "tensor {} of the offer has {} bytes, which its shape {} does not take", shown(name),
                         held.bytes.size(), shape_text(record.shape));
  return tensor_over({record.dtype, record.shape, held.bytes}, held.owner);
}

}  // namespace detail

/// Puts an offer into a journal: what `Welcome` lists.
/// \param source  the full model's folder, for the tokenizer
/// \param put     `federation::Blob put(std::span<const std::byte>)`
/// \throws ArgumentError if a part of it has no bytes, and as `put`.
template <CheckpointModel M, class Put>
[[nodiscard]] std::vector<federation::OfferedBlob> put_offer(PreparedOffer<M>& offer,
                                                             const std::filesystem::path& source,
                                                             const Put& put) {
  std::vector<federation::OfferedBlob> blobs;
  const auto add = [&](const std::string& name, std::span<const std::byte> bytes) {
    require(!bytes.empty(), "{} of the offer has no bytes, so it cannot be sent", name);
    blobs.push_back({name, put(bytes)});
  };
  visit_parameters<BlockAccess<M>>(offer.model, offer.split.plan.kept(),
                                   [&](const std::string& name, const at::Tensor& tensor) {
                                     if (offer.split.tensors.at(name).travels)
                                       add(name, view_of(tensor).bytes);
                                   });
  for (const auto& name : detail::tokenizer_parts(source)) {
    const MappedFile file(source / name);
    add(std::string(detail::kOfferedFiles) + name, file.bytes());
  }
  return blobs;
}

/// An offer that came as blobs, checked: names, shapes and types against the split, whose hashes the blobs have. Weights
/// are not copied.
/// \param view    `federation::BlobView view(sha256)`, of bytes that have this hash
/// \param folder  for the tokenizer's files, which are written there; what it held before is removed
/// \param own     a folder with the shared parameters that the offer leaves out
/// \throws ProtocolError saying what does not fit; ArgumentError if `own` is needed, or a file cannot be written.
template <CheckpointModel M, class View>
[[nodiscard]] ReceivedOffer<M> read_offer_blobs(const Json& split,
                                                std::span<const federation::OfferedBlob> offer,
                                                const View& view, const std::filesystem::path& folder,
                                                const std::optional<std::filesystem::path>& own = {}) {
  const std::string what = "the owner's split";
  ReceivedOffer<M> result;
  result.split = SplitSpecification::from_json(split, what);
  const auto& tensors = result.split.tensors;
  require<ProtocolError>(reads_model_type<M>(result.split.model_type),
                         "{} is of model type {}, but this reads '{}'", what,
                         detail::shown(result.split.model_type), M::kModelType);
  const auto config = detail::config_of<M>(result.split.config, what);
  require<ProtocolError>(config.num_blocks() == result.split.plan.depth,
                         "{} is of {} blocks, but its configuration says {}", what, result.split.plan.depth,
                         config.num_blocks());
  result.adapters = detail::offered_policy(result.split.adapter_policy, what);
  result.offer.plan = result.split.plan;
  result.offer.adapter_policy = policy_text(result.adapters);
  const auto blobs = detail::blobs_by_name(offer);
  detail::write_offered_files(result.split, blobs, view, folder);
  result.tokenizer = folder;

  std::optional<CheckpointFolder> brought;
  std::set<std::string, std::less<>> taken;
  const auto source = [&](std::string_view full, at::IntArrayRef shape) {
    const auto record = tensors.find(full);
    require<ProtocolError>(record != tensors.end(), "{} lacks the tensor {}, which these blocks need", what,
                           detail::shown(full));
    taken.emplace(full);
    if (record->second.travels) return detail::tensor_of_blob(full, record->second, blobs, view, shape);
    require(own.has_value(),
            "the offer leaves out the shared parameter {}, which the client must bring: name a folder that "
            "holds it",
            detail::shown(full));
    if (!brought) brought.emplace(*own);
    const auto key = detail::KeySpelling(*brought, M::kKeyPrefix).spelled(full);
    return detail::offered_tensor(*brought, key, full, record->second, shape);
  };
  result.offer.model = M::build(config, result.split.plan.kept(), source);
  detail::attach_offered(result.offer.model, result.split.plan, result.adapters, what, source);
  for (const auto& [name, record] : tensors)
    require<ProtocolError>(taken.contains(name), "{} lists the tensor {}, which is no part of these blocks",
                           what, detail::shown(name));
  return result;
}

}  // namespace offsite
