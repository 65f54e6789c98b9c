#pragma once
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "offsite/adapters/any_adapter.hpp"
#include "offsite/adapters/modules.hpp"
#include "offsite/blocks/visit_parameters.hpp"
#include "offsite/core/tensors.hpp"
#include "offsite/emulator/disclosure_json.hpp"
#include "offsite/io/checkpoint_folder.hpp"
#include "offsite/io/model_folder.hpp"
#include "offsite/io/split_specification.hpp"
#include "offsite/io/staged_folder.hpp"
#include "offsite/models/checkpoint_model.hpp"
#include "offsite/trainer/offer.hpp"

namespace offsite {

/// What of an offer leaves, and how.
struct OfferOptions {
  std::optional<Dtype>
      dtype{};  ///< of emulator and shared parameters; none = as they are. Adapters keep theirs
  std::optional<std::vector<std::string>>
      shared{};                            ///< full names of the shared parameters that go along; none = all
  std::optional<double> emulator_score{};  ///< accuracy of the emulator alone, for report and policy
  DisclosurePolicy policy{};
  std::uint64_t max_shard_bytes = 5'000'000'000;  ///< data in one file, > 0
  StagedFolder::Existing existing = StagedFolder::kRefuse;
};

/// An offer ready to be written, and what it would tell.
template <CheckpointModel M>
struct PreparedOffer {
  M model;  ///< as it leaves; shares all that is not cast
  SplitSpecification split;
  DisclosureReport disclosure;
};

namespace detail {

/// Names of the shared parameters that stay behind. \throws ArgumentError if `shared` names none of `model`'s.
template <class M>
[[nodiscard]] std::set<std::string, std::less<>> left_out(
    M& model, const std::optional<std::vector<std::string>>& shared) {
  std::set<std::string, std::less<>> names;
  model.visit_shared([&](std::string_view name, const at::Tensor&) { names.emplace(name); });
  if (!shared) return {};
  auto left = names;
  for (const auto& name : *shared) {
    require(names.contains(name),
            "the shared parameter {} was to go along, but the model has none of that name", shown(name));
    left.erase(name);
  }
  return left;
}

}  // namespace detail

/// Makes an offer ready: casts, hashes, compares it with the full model and asks the policy. Writes nothing.
/// \param source  the full model's folder, for configuration and tokenizer
/// \throws ArgumentError if the policy refuses, or options, offer and folder do not fit each other.
template <CheckpointModel M>
[[nodiscard]] PreparedOffer<M> prepare_offer(M full, const Offer<M>& offer,
                                             const std::filesystem::path& source,
                                             const OfferOptions& options = {}) {
  auto config = read_json(source / "config.json");
  const auto depth = detail::config_of<M>(config, (source / "config.json").string()).num_blocks();
  require(depth == offer.plan.depth, "the split was made of {} blocks, but {} describes {}", offer.plan.depth,
          (source / "config.json").string(), depth);
  PreparedOffer<M> result{offer.model, {}, {}};
  const auto left = detail::left_out(result.model, options.shared);
  auto& split = result.split;
  const auto* type = config.find("model_type");
  split.model_type = type != nullptr && type->is_string() ? type->text() : std::string(M::kModelType);
  split.config = std::move(config);
  split.plan = offer.plan;
  split.adapter_policy = offer.adapter_policy;
  if (options.dtype) split.dtype = weight_dtype_name(*options.dtype);
  split.tokenizer_sha256 = tokenizer_sha256(source);

  std::set<std::string> frozen;
  result.model.visit_shared([&](std::string_view name, const at::Tensor&) { frozen.emplace(name); });
  for (const auto number : offer.plan.emulator) frozen.insert(block_prefix<BlockAccess<M>>(number));
  // A client brings a left-out parameter as the published checkpoint has it, so it is not cast here.
  const auto is_cast = [&](const std::string& name) {
    return !left.contains(name) && !detail::is_module_name(name) &&
           std::any_of(frozen.begin(), frozen.end(),
                       [&](const auto& start) { return name.starts_with(start); });
  };
  const auto kept = offer.plan.kept();
  visit_parameters<BlockAccess<M>>(result.model, kept, [&](const std::string& name, at::Tensor& tensor) {
    auto held = tensor.detach().to(at::kCPU);
    if (options.dtype && is_cast(name)) held = held.to(scalar_type_of(*options.dtype));
    tensor = held.contiguous();
    const auto view = view_of(tensor);
    split.tensors[name] = {view.dtype, view.shape, sha256_hex(view.bytes), !left.contains(name)};
  });
  result.disclosure = disclose<BlockAccess<M>>(full, result.model, offer.plan, left);
  result.disclosure.emulator_score = options.emulator_score;
  options.policy.enforce(result.disclosure);
  return result;
}

/// Writes an offer folder, all or nothing: `split.json`, `disclosure.json`, `config.json` and the tokenizer's
/// files of `source`, and the weights under the full model's names and block numbers.
/// \throws ArgumentError as `prepare_offer`, or if the folder cannot be written.
template <CheckpointModel M>
void write_offer(PreparedOffer<M>& offer, const std::filesystem::path& source,
                 const std::filesystem::path& out, const OfferOptions& options = {}) {
  std::vector<NamedView> views;
  visit_parameters<BlockAccess<M>>(offer.model, offer.split.plan.kept(),
                                   [&](const std::string& name, const at::Tensor& tensor) {
                                     if (offer.split.tensors.at(name).travels)
                                       views.push_back({name, view_of(tensor)});
                                   });
  StagedFolder folder(out, options.existing);
  write_json(folder.path() / "split.json", offer.split.to_json());
  write_json(folder.path() / "disclosure.json", to_json(offer.disclosure));
  detail::write_config(source, folder.path(), {});
  copy_tokenizer(source, folder.path());
  SaveOptions shards;
  shards.max_shard_bytes = options.max_shard_bytes;
  save_checkpoint(folder.path(), views, shards);
  folder.commit();
}

/// The same from the offer itself.
template <CheckpointModel M>
DisclosureReport write_offer(const M& full, const Offer<M>& offer, const std::filesystem::path& source,
                             const std::filesystem::path& out, const OfferOptions& options = {}) {
  auto prepared = prepare_offer(full, offer, source, options);
  write_offer(prepared, source, out, options);
  return prepared.disclosure;
}

/// An offer that came from outside, checked.
template <CheckpointModel M, AdapterPolicy Adapters = PlacedAdapters>
struct ReceivedOffer {
  Offer<M> offer;
  SplitSpecification split;
  DisclosureReport disclosure;
  std::string split_sha256;         ///< of its `split.json`
  std::filesystem::path tokenizer;  ///< folder that holds the tokenizer's files
  Adapters adapters{};              ///< what trains: what the client is to be made with
};

namespace detail {

/// One tensor of an offer, checked against its record and the configuration.
[[nodiscard]] inline at::Tensor offered_tensor(const CheckpointFolder& folder, const std::string& key,
                                               std::string_view name, const TensorRecord& record,
                                               at::IntArrayRef shape) {
  const auto view = weight_at(folder, key, shape);
  const auto difference = explain_tensor_difference(
      name, record, {view.dtype, view.shape, sha256_hex(view.bytes), record.travels});
  require<ProtocolError>(difference.empty(), "{} is not what split.json describes: {}",
                         file_holding(folder, key), difference);
  return tensor_over(view, folder.owner(key));
}

/// The library's policy that a split specification names. \throws ProtocolError
[[nodiscard]] inline PlacedAdapters offered_policy(const std::string& text, const std::string& file) {
  try {
    return PlacedAdapters::parse(text);
  } catch (const ArgumentError& error) {
    throw ProtocolError(formatted("{} names no adapter policy of this library: {}", file, error.what()));
  }
}

/// Whether `text` names this policy: for the library's own in any spelling.
template <class Adapters>
[[nodiscard]] bool is_called(const Adapters& adapters, const std::string& text) {
  if (text == policy_text(adapters)) return true;
  if constexpr (std::same_as<Adapters, PlacedAdapters>) return PlacedAdapters::parse(text) == adapters;
  return false;
}

/// Checks everything of an offer but its weights. \throws ProtocolError
template <class M, class Adapters = PlacedAdapters>
[[nodiscard]] ReceivedOffer<M, Adapters> read_offer_texts(const std::filesystem::path& path) {
  std::error_code unseen;
  require(std::filesystem::is_directory(path, unseen), "{} is no folder, but an offer is a folder",
          path.string());
  ReceivedOffer<M, Adapters> result;
  result.split = SplitSpecification::read(path / "split.json");
  result.split_sha256 = file_sha256(path / "split.json");
  result.tokenizer = path;
  const auto& split = result.split;
  require<ProtocolError>(reads_model_type<M>(split.model_type), "{} is of model type {}, but this reads '{}'",
                         (path / "split.json").string(), shown(split.model_type), M::kModelType);
  const auto check = [&](const char* file, const std::string& difference) {
    require<ProtocolError>(difference.empty(), "{} is not what split.json describes: {}",
                           (path / file).string(), difference);
  };
  const auto config = read_json(path / "config.json");
  check("config.json", explain_config_difference(split.config, config));
  const auto depth = config_of<M>(config, (path / "config.json").string()).num_blocks();
  check("config.json", depth == split.plan.depth
                           ? ""
                           : formatted("it has {} blocks, but {} were expected", depth, split.plan.depth));
  const auto hash = tokenizer_sha256(path);
  require<ProtocolError>(
      hash == split.tokenizer_sha256,
      "the tokenizer in {} is not what split.json describes: its SHA-256 is {}, but {} was expected",
      path.string(), hash.empty() ? "absent" : hash,
      split.tokenizer_sha256.empty() ? "none" : split.tokenizer_sha256);
  result.disclosure = disclosure_from_json(read_json(path / "disclosure.json"));
  check("disclosure.json",
        result.disclosure.blocks == depth && result.disclosure.emulator == split.plan.emulator
            ? ""
            : "its blocks are others");
  result.offer.plan = split.plan;
  return result;
}

/// Adds the policy's modules to an offer's blocks, with the offer's values.
/// \param source  gives a tensor by its full name and shape, checked
/// \throws ProtocolError if the offer lacks one; nothing larger than what it holds is made.
template <class M, class Adapters, class Source>
void attach_offered(M& model, const SplitPlan& plan, const Adapters& adapters, const std::string& file,
                    const Source& source) {
  using Access = BlockAccess<M>;
  const auto kept = plan.kept();
  const auto blocks = trained_blocks(adapters, plan, false);
  std::map<std::string, at::Tensor, std::less<>> values;
  visit_modules<Access>(model, kept, blocks, adapters, [&](const std::string& name, at::IntArrayRef shape) {
    values.emplace(name, source(name, shape).to(at::kFloat));
  });
  try {
    attach_modules<Access>(model, kept, blocks, adapters);
  } catch (const ArgumentError& error) {
    throw ProtocolError(formatted("{} names an adapter policy that does not fit: {}", file, error.what()));
  }
  visit_parameters<Access>(model, kept, [&](const std::string& name, at::Tensor& tensor) {
    if (const auto value = values.find(name); value != values.end()) tensor = value->second;
  });
}

}  // namespace detail

/// Reads an offer folder and checks all of it against its `split.json`: names, shapes, types, SHA-256 and
/// block numbers of the weights, no more and no less, the configuration and the tokenizer. Weights are not
/// copied.
/// \param own       a folder with the shared parameters that the offer leaves out
/// \param adapters  what the reader trains
/// \throws ArgumentError if a file cannot be read, or `own` is needed.
/// \throws ProtocolError saying what does not fit, or that the offer was made for another policy.
template <CheckpointModel M, AdapterPolicy Adapters>
[[nodiscard]] ReceivedOffer<M, Adapters> read_offer(const std::filesystem::path& path,
                                                    const std::optional<std::filesystem::path>& own,
                                                    const Adapters& adapters) {
  auto result = detail::read_offer_texts<M, Adapters>(path);
  require<ProtocolError>(detail::is_called(adapters, result.split.adapter_policy),
                         "the offer {} was made for the adapter policy {}, but this reader's is '{}'",
                         path.string(), detail::shown(result.split.adapter_policy), policy_text(adapters));
  result.adapters = adapters;
  result.offer.adapter_policy = policy_text(adapters);
  const auto& tensors = result.split.tensors;
  const CheckpointFolder folder(path);
  for (const auto& name : folder.names()) {
    const auto record = tensors.find(name);
    require<ProtocolError>(record != tensors.end() && record->second.travels,
                           "{} holds the tensor {}, which split.json does not put there",
                           detail::file_holding(folder, name), detail::shown(name));
  }
  std::optional<CheckpointFolder> brought;
  std::set<std::string, std::less<>> taken;
  const auto source = [&](std::string_view full, at::IntArrayRef shape) {
    const auto record = tensors.find(full);
    require<ProtocolError>(record != tensors.end(), "{} lacks the tensor {}, which these blocks need",
                           (path / "split.json").string(), detail::shown(full));
    taken.emplace(full);
    if (record->second.travels)
      return detail::offered_tensor(folder, std::string(full), full, record->second, shape);
    require(own.has_value(),
            "the offer {} leaves out the shared parameter {}, which the client must bring: name a folder "
            "that holds it",
            path.string(), detail::shown(full));
    if (!brought) brought.emplace(*own);
    const auto key = detail::KeySpelling(*brought, M::kKeyPrefix).spelled(full);
    return detail::offered_tensor(*brought, key, full, record->second, shape);
  };
  const auto config = detail::config_of<M>(result.split.config, (path / "split.json").string());
  result.offer.model = M::build(config, result.split.plan.kept(), source);
  detail::attach_offered(result.offer.model, result.split.plan, adapters, (path / "split.json").string(),
                         source);
  for (const auto& [name, record] : tensors)
    require<ProtocolError>(taken.contains(name), "{} lists the tensor {}, which is no part of these blocks",
                           (path / "split.json").string(), detail::shown(name));
  return result;
}

/// The same with the adapter policy that the offer names.
/// \throws ProtocolError if that is none of the library's.
template <CheckpointModel M>
[[nodiscard]] ReceivedOffer<M> read_offer(const std::filesystem::path& path,
                                          const std::optional<std::filesystem::path>& own = {}) {
  std::error_code unseen;
  const auto file = path / "split.json";
  PlacedAdapters adapters;
  if (std::filesystem::is_directory(path, unseen))
    adapters = detail::offered_policy(SplitSpecification::read(file).adapter_policy, file.string());
  return read_offer<M>(path, own, adapters);
}

}  // namespace offsite
