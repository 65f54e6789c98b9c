#pragma once
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "offsite/adapters/lora.hpp"
#include "offsite/trainer/peft_files.hpp"

namespace offsite {

namespace detail {

/// The settings of an `adapter_config.json`, all of which are understood or off.
/// \throws ProtocolError naming the field that is wrong or not supported.
[[nodiscard]] inline Lora peft_settings(const Json& json, const std::string& what) {
  // What says nothing of how the layers compute, or says it of where, which the tensors' names do too.
  static const std::set<std::string, std::less<>> kPassedOver{"auto_mapping",   "base_model_name_or_path",
                                                              "corda_config",   "ensure_weight_tying",
                                                              "eva_config",     "exclude_modules",
                                                              "fan_in_fan_out", "inference_mode",
                                                              "layers_pattern", "layers_to_transform",
                                                              "loftq_config",   "megatron_core",
                                                              "peft_version",   "qalora_group_size",
                                                              "revision",       "runtime_config",
                                                              "target_modules", "task_type"};
  static const std::set<std::string, std::less<>> kRead{
      "peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "init_lora_weights"};
  const HostileObject fields(json, what);
  const auto type = fields.text("peft_type");
  require<ProtocolError>(type == "LORA", "{} is of the PEFT type {}, but only LORA is supported", what,
                         shown(type));
  for (const auto& [name, value] : json.items())
    require<ProtocolError>(kPassedOver.contains(name) || kRead.contains(name) || is_off(value),
                           "{} sets {} to {}, which is not supported", what, shown(name), shown_json(value));
  if (const auto* start = json.find("init_lora_weights"))  // some ways to start change the frozen weights too
    require<ProtocolError>(start->is_boolean() || *start == Json("gaussian") || *start == Json("orthogonal"),
                           "{} sets 'init_lora_weights' to {}, which is not supported", what,
                           shown_json(*start));
  Lora lora;
  lora.rank = fields.integer("r", 1, 65536);
  lora.alpha = fields.number("lora_alpha");
  if (json.contains("lora_dropout")) lora.dropout = fields.number("lora_dropout");
  lora.rslora = fields.has("use_rslora") && fields.truth("use_rslora");
  lora.dora = fields.has("use_dora") && fields.truth("use_dora");
  try {
    lora.check();
  } catch (const ArgumentError& error) {
    throw ProtocolError(what + ": " + error.what());
  }
  return lora;
}

}  // namespace detail

/// Reads a LoRA folder of PEFT, `adapter_config.json` and `adapter_model.safetensors`, and puts its factors on the layers
/// that they belong to; nothing is merged.
///
/// \param numbers  the full model's number of each of the model's blocks
/// \returns the settings; `targets` stays empty, since the files name each layer
/// \throws ArgumentError if a file cannot be read, ProtocolError for other kinds of adapters, settings that are not
/// supported, and tensors that are missing, extra, misshaped or no floats.
template <CheckpointModel M>
Lora load_peft(M& model, const std::vector<std::int64_t>& numbers, const std::filesystem::path& path) {
  const auto config = path / "adapter_config.json";
  const Lora lora = detail::peft_settings(read_json(config), config.string());
  detail::PeftReader<M> reader(path);
  reader.visit(model, numbers, ".lora_A.weight",
               [&](const std::string& full, const std::string& key, Linear& layer) {
                 const auto in = layer.in_features(), out = layer.out_features();
                 layer.low_rank = {.a = reader.take(key + ".lora_A.weight", {lora.rank, in}),
                                   .b = reader.take(key + ".lora_B.weight", {out, lora.rank}),
                                   .magnitude = {},
                                   .scale = lora.scale(),
                                   .dropout = {.rate = lora.dropout, .place = detail::key_of_name(full)}};
                 if (lora.dora) layer.low_rank.magnitude = reader.take(key + ".lora_magnitude_vector", {out});
               });
  reader.check_all_taken();
  return lora;
}

/// The same for a whole model.
template <CheckpointModel M>
Lora load_peft(M& model, const std::filesystem::path& path) {
  return load_peft(model, detail::all_blocks(BlockAccess<M>::num_blocks(model)), path);
}

/// Writes the low-rank changes that a whole model's layers carry as a folder that PEFT reads, all or nothing.
///
/// \param model  unmerged, as `Owner::plug_in_unmerged` gives it
/// \param lora   the settings with which they were made
/// \param base   what PEFT is told the model is: a folder or a name
/// \throws ArgumentError if no layer carries a change, or one has other settings; or the folder cannot be written.
template <CheckpointModel M>
void save_peft(M& model, const Lora& lora, const std::string& base, const std::filesystem::path& out,
               StagedFolder::Existing existing = StagedFolder::kRefuse) {
  using Access = BlockAccess<M>;
  detail::PeftWriter writer;
  bool in_out = false;
  for (std::int64_t place = 0; place < Access::num_blocks(model); ++place) {
    const auto prefix = block_prefix<Access>(place);
    visit_linears<Access>(Access::block(model, place), [&](std::string_view name, const Linear& layer) {
      const auto& change = layer.low_rank;
      if (!change.defined()) return;
      const auto full = prefix + std::string(name);
      require(change.a.size(0) == lora.rank && change.scale == lora.scale() &&
                  change.magnitude.defined() == lora.dora,
              "the layer {} has rank {} and scale {}, but the folder is written for rank {} and scale {}",
              full, change.a.size(0), change.scale, lora.rank, lora.scale());
      writer.begin(place, name, full);
      writer.add(".lora_A.weight", change.a);
      writer.add(".lora_B.weight", change.b);
      if (lora.dora) writer.add(".lora_magnitude_vector", change.magnitude);
      in_out = in_out || layer.layout == WeightLayout::kInOut;
    });
  }
  require(!writer.empty(), "no layer of the model carries a low-rank change, so there is nothing for PEFT");
  Json config = Json::object({{"base_model_name_or_path", base},
                              {"bias", "none"},
                              {"fan_in_fan_out", in_out},
                              {"inference_mode", true},
                              {"init_lora_weights", true},
                              {"lora_alpha", lora.alpha == std::floor(lora.alpha) && lora.alpha < 1e15
                                                 ? Json(static_cast<std::int64_t>(lora.alpha))
                                                 : Json(lora.alpha)},
                              {"lora_dropout", lora.dropout},
                              {"peft_type", "LORA"},
                              {"r", lora.rank},
                              {"task_type", "CAUSAL_LM"},
                              {"use_dora", lora.dora},
                              {"use_rslora", lora.rslora}});
  writer.name_layers(config);
  writer.write(config, out, existing);
}

}  // namespace offsite
