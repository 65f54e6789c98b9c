#pragma once
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "offsite/core/dtype.hpp"
#include "offsite/core/error.hpp"
#include "offsite/core/split_plan.hpp"
#include "offsite/core/tensor_view.hpp"
#include "offsite/io/hostile_object.hpp"
#include "offsite/io/json.hpp"
#include "offsite/io/model_files.hpp"
#include "offsite/io/safetensors_header.hpp"

namespace offsite {

/// One tensor of an offer: what it must be, whoever brings it.
struct TensorRecord {
  Dtype dtype = Dtype::kF32;
  std::vector<std::int64_t> shape;
  std::string sha256;   ///< of its bytes, 64 lower-case hexadecimal digits
  bool travels = true;  ///< it is in the offer; otherwise the client brings it

  bool operator==(const TensorRecord&) const = default;
};

/// What owner and client agree on before anything is trained: the contents of `split.json`.
struct SplitSpecification {
  static constexpr std::int64_t kFormatVersion = 1;

  std::string model_type;
  Json config;  ///< the full model's, as its `config.json` has it
  SplitPlan plan;
  std::string adapter_policy = "whole_blocks";  ///< which parameters of the adapter blocks train
  std::string dtype =
      "auto";  ///< of emulator and shared parameters: "auto" = the checkpoint's own, or "bfloat16" ...
  std::string tokenizer_sha256;  ///< see `tokenizer_sha256`; empty = no tokenizer goes along
  std::map<std::string, TensorRecord, std::less<>> tensors;  ///< by full name

  bool operator==(const SplitSpecification&) const = default;

  [[nodiscard]] Json to_json() const;

  /// Takes nothing on trust. \param what  names the text in messages
  /// \throws ProtocolError saying which field is missing, unknown, of the wrong type or out of range.
  [[nodiscard]] static SplitSpecification from_json(const Json& json, const std::string& what);

  /// \throws ArgumentError if the file cannot be read, ProtocolError as `from_json`.
  [[nodiscard]] static SplitSpecification read(const std::filesystem::path& path) {
    return from_json(read_json(path), path.string());
  }
};

namespace detail {

[[nodiscard]] inline SplitPlan plan_from_json(const Json& json, const std::string& what) {
  constexpr std::int64_t kDeepest = 100'000;
  const HostileObject blocks(json, what);
  blocks.only({"depth", "adapters", "emulator"});
  SplitPlan plan;
  plan.depth = blocks.integer("depth", 1, kDeepest);
  plan.adapters = blocks.integers("adapters");
  plan.emulator = blocks.integers("emulator");
  for (const auto* name : {"adapters", "emulator"}) {
    const auto& numbers = name == std::string_view("adapters") ? plan.adapters : plan.emulator;
    std::int64_t last = -1;
    blocks.check(name, !numbers.empty(), "a list of at least one block");
    for (const auto number : numbers) {
      blocks.check(name, last < number && number < plan.depth,
                   formatted("strictly ascending numbers of {} blocks", plan.depth));
      last = number;
    }
  }
  for (const auto number : plan.emulator)
    require<ProtocolError>(!std::binary_search(plan.adapters.begin(), plan.adapters.end(), number),
                           "{} names block {} both as adapter and as part of the emulator", what, number);
  return plan;
}

[[nodiscard]] inline TensorRecord record_from_json(const Json& json, const std::string& what) {
  const HostileObject fields(json, what);
  fields.only({"dtype", "shape", "sha256", "travels"});
  TensorRecord record;
  const auto dtype = dtype_of(fields.text("dtype"));
  fields.check("dtype", dtype.has_value() && is_weight_dtype(*dtype), "F32, F16, BF16 or F64");
  record.dtype = *dtype;
  record.shape = fields.integers("shape");
  fields.check("shape", byte_count(record.dtype, record.shape).has_value(), "a shape");
  record.sha256 = fields.sha256("sha256");
  record.travels = fields.truth("travels");
  return record;
}

[[nodiscard]] inline std::string list_text(const std::vector<std::int64_t>& numbers) {
  return shown_json(numbers);
}

/// The first field in which two configurations differ, as a sentence; empty if none. What only tells who
/// wrote the file does not count.
[[nodiscard]] inline std::string explain_config_difference(const Json& expected, const Json& found) {
  static const std::set<std::string_view> kHistory{"transformers_version", "_name_or_path"};
  if (!expected.is_object() || !found.is_object())
    return expected == found ? "" : "the configuration is not the JSON object that was expected";
  std::set<std::string> names;
  for (const auto* side : {&expected, &found})
    for (const auto& [name, value] : side->items()) names.insert(name);
  for (const auto& name : names) {
    if (kHistory.contains(name)) continue;
    const auto text = [&](const Json& side) {
      return side.contains(name) ? shown_json(side.at(name)) : std::string("absent");
    };
    const bool same = expected.contains(name) && found.contains(name) && expected.at(name) == found.at(name);
    if (!same)
      return formatted("{} of the configuration is {}, but {} was expected", shown(name), text(found),
                       text(expected));
  }
  return {};
}

[[nodiscard]] inline std::string explain_tensor_difference(std::string_view name,
                                                           const TensorRecord& expected,
                                                           const TensorRecord& found) {
  const auto differs = [&](std::string_view what, std::string_view has, std::string_view wanted) {
    return formatted("tensor {} has {} {}, but {} was expected", shown(name), what, has, wanted);
  };
  if (found.shape != expected.shape)
    return differs("shape", shape_text(found.shape), shape_text(expected.shape));
  if (found.dtype != expected.dtype)
    return differs("type", dtype_name(found.dtype), dtype_name(expected.dtype));
  if (found.sha256 != expected.sha256) return differs("SHA-256", found.sha256, expected.sha256);
  if (found.travels != expected.travels)
    return formatted("tensor {} {} in the offer, but the opposite was expected", shown(name),
                     found.travels ? "is" : "is not");
  return {};
}

}  // namespace detail

inline Json SplitSpecification::to_json() const {
  auto records = Json::object();
  for (const auto& [name, tensor] : tensors)
    records[name] = Json::object({{"dtype", dtype_name(tensor.dtype)},
                                  {"shape", tensor.shape},
                                  {"sha256", tensor.sha256},
                                  {"travels", tensor.travels}});
  const auto hash = tokenizer_sha256.empty() ? Json() : Json(tokenizer_sha256);
  const auto blocks =
      Json::object({{"depth", plan.depth}, {"adapters", plan.adapters}, {"emulator", plan.emulator}});
  return Json::object({{"format_version", kFormatVersion},
                       {"model_type", model_type},
                       {"config", config},
                       {"blocks", blocks},
                       {"adapter_policy", adapter_policy},
                       {"dtype", dtype},
                       {"tokenizer_sha256", hash},
                       {"tensors", records}});
}

inline SplitSpecification SplitSpecification::from_json(const Json& json, const std::string& what) {
  const detail::HostileObject fields(json, what);
  const auto version = fields.integer("format_version", 0, INT64_MAX);
  require<ProtocolError>(version == kFormatVersion, "{} is of format version {}, but this reads version {}",
                         what, version, kFormatVersion);
  fields.only({"format_version", "model_type", "config", "blocks", "adapter_policy", "dtype",
               "tokenizer_sha256", "tensors"});
  SplitSpecification result;
  result.model_type = fields.text("model_type");
  result.config = fields.at("config");
  fields.check("config", result.config.is_object(), "an object");
  result.plan = detail::plan_from_json(fields.at("blocks"), "'blocks' of " + what);
  result.adapter_policy = fields.text("adapter_policy");
  result.dtype = fields.text("dtype");
  fields.check("dtype", result.dtype == "auto" || weight_dtype_of(result.dtype).has_value(),
               "auto, float32, float16, bfloat16 or float64");
  if (!fields.at("tokenizer_sha256").is_null()) result.tokenizer_sha256 = fields.sha256("tokenizer_sha256");
  fields.check("tensors", fields.at("tensors").is_object(), "an object");
  for (const auto& [name, record] : fields.at("tensors").items())
    result.tensors[name] =
        detail::record_from_json(record, formatted("tensor {} of {}", detail::shown(name), what));
  return result;
}

/// One sentence that says in which field two specifications differ, and how; empty if in none. Where several
/// differ, the one that explains most.
[[nodiscard]] inline std::string explain_difference(const SplitSpecification& expected,
                                                    const SplitSpecification& found) {
  const auto differs = [](std::string_view field, std::string_view has, std::string_view wanted) {
    return formatted("{} is {}, but {} was expected", field, has, wanted);
  };
  const auto& a = expected;
  const auto& b = found;
  if (b.model_type != a.model_type)
    return differs("the model type", detail::shown(b.model_type), detail::shown(a.model_type));
  if (b.plan.depth != a.plan.depth)
    return differs("the number of blocks", std::to_string(b.plan.depth), std::to_string(a.plan.depth));
  if (auto sentence = detail::explain_config_difference(a.config, b.config); !sentence.empty())
    return sentence;
  if (b.plan.adapters != a.plan.adapters)
    return differs("the list of adapter blocks", detail::list_text(b.plan.adapters),
                   detail::list_text(a.plan.adapters));
  if (b.plan.emulator != a.plan.emulator)
    return differs("the emulator's list of blocks", detail::list_text(b.plan.emulator),
                   detail::list_text(a.plan.emulator));
  if (b.adapter_policy != a.adapter_policy)
    return differs("the adapter policy", detail::shown(b.adapter_policy), detail::shown(a.adapter_policy));
  if (b.dtype != a.dtype) return differs("the dtype", detail::shown(b.dtype), detail::shown(a.dtype));
  if (b.tokenizer_sha256 != a.tokenizer_sha256)
    return differs("the tokenizer's SHA-256", b.tokenizer_sha256.empty() ? "absent" : b.tokenizer_sha256,
                   a.tokenizer_sha256.empty() ? "none" : a.tokenizer_sha256);
  for (const auto& [name, tensor] : a.tensors) {
    const auto other = b.tensors.find(name);
    if (other == b.tensors.end()) return formatted("tensor {} is missing", detail::shown(name));
    if (auto sentence = detail::explain_tensor_difference(name, tensor, other->second); !sentence.empty())
      return sentence;
  }
  for (const auto& [name, tensor] : b.tensors)
    if (!a.tensors.contains(name)) return formatted("tensor {} was not expected", detail::shown(name));
  return {};
}

}  // namespace offsite
