#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "offsite/adapters/bottleneck.hpp"
#include "offsite/trainer/peft_files.hpp"

namespace offsite {

namespace detail {

/// The settings of a bottleneck's `adapter_config.json`. \throws ProtocolError naming the field that is wrong.
[[nodiscard]] inline Bottleneck bottleneck_settings(const Json& json, const std::string& what) {
  const HostileObject fields(json, what);
  const auto type = fields.text("peft_type");
  require<ProtocolError>(type == "BOTTLENECK", "{} is of the PEFT type {}, but a bottleneck's is BOTTLENECK",
                         what, shown(type));
  fields.only({"base_model_name_or_path", "peft_type", "bottleneck_size", "non_linearity", "adapter_dropout",
               "layers_to_transform", "target_modules", "task_type", "inference_mode"});
  const auto activation = fields.text("non_linearity");
  require<ProtocolError>(activation == "relu", "{} sets 'non_linearity' to {}, but only relu is supported",
                         what, shown(activation));
  Bottleneck bottleneck;
  bottleneck.width = fields.integer("bottleneck_size", 1, 65536);
  bottleneck.dropout = fields.number("adapter_dropout");
  try {
    bottleneck.check();
  } catch (const ArgumentError& error) {
    throw ProtocolError(what + ": " + error.what());
  }
  return bottleneck;
}

}  // namespace detail

/// Reads a folder that `save_bottleneck` wrote, and puts its networks behind the layers that they belong to.
///
/// \returns the settings; `targets` stays empty, since the files name each layer
/// \throws ArgumentError if a file cannot be read, ProtocolError for other kinds of adapters, settings that are not
/// supported, and tensors that are missing, extra, misshaped or no floats.
template <CheckpointModel M>
Bottleneck load_bottleneck(M& model, const std::filesystem::path& path) {
  const auto config = path / "adapter_config.json";
  const Bottleneck settings = detail::bottleneck_settings(read_json(config), config.string());
  detail::PeftReader<M> reader(path);
  reader.visit(model, detail::all_blocks(BlockAccess<M>::num_blocks(model)), ".bottleneck_down.weight",
               [&](const std::string& full, const std::string& key, Linear& layer) {
                 const auto out = layer.out_features(), width = settings.width;
                 layer.bottleneck = {
                     .down_weight = reader.take(key + ".bottleneck_down.weight", {width, out}),
                     .down_bias = reader.take(key + ".bottleneck_down.bias", {width}),
                     .up_weight = reader.take(key + ".bottleneck_up.weight", {out, width}),
                     .up_bias = reader.take(key + ".bottleneck_up.bias", {out}),
                     .dropout = {.rate = settings.dropout, .place = detail::key_of_name(full)}};
               });
  reader.check_all_taken();
  return settings;
}

/// Writes the networks that stand behind a whole model's layers as a folder, all or nothing. PEFT has no such kind: the
/// layout and the settings' names are those of its folders, the type is BOTTLENECK.
///
/// \param model       as `Owner::plug_in` gives it
/// \param bottleneck  the settings with which they were made
/// \param base        what the folder says the model is: a folder or a name
/// \throws ArgumentError if no network stands behind a layer, or one is of another width; or the folder cannot be written.
template <CheckpointModel M>
void save_bottleneck(M& model, const Bottleneck& bottleneck, const std::string& base,
                     const std::filesystem::path& out,
                     StagedFolder::Existing existing = StagedFolder::kRefuse) {
  using Access = BlockAccess<M>;
  detail::PeftWriter writer;
  for (std::int64_t place = 0; place < Access::num_blocks(model); ++place) {
    const auto prefix = block_prefix<Access>(place);
    visit_linears<Access>(Access::block(model, place), [&](std::string_view name, const Linear& layer) {
      const auto& network = layer.bottleneck;
      if (!network.defined()) return;
      const auto full = prefix + std::string(name);
      require(network.down_bias.size(0) == bottleneck.width,
              "the network behind the layer {} is {} wide, but the folder is written for {}", full,
              network.down_bias.size(0), bottleneck.width);
      writer.begin(place, name, full);
      writer.add(".bottleneck_down.weight", network.down_weight);
      writer.add(".bottleneck_down.bias", network.down_bias);
      writer.add(".bottleneck_up.weight", network.up_weight);
      writer.add(".bottleneck_up.bias", network.up_bias);
    });
  }
  require(!writer.empty(), "no bottleneck stands behind a layer of the model, so there is nothing to write");
  Json config = Json::object({{"adapter_dropout", bottleneck.dropout},
                              {"base_model_name_or_path", base},
                              {"bottleneck_size", bottleneck.width},
                              {"inference_mode", true},
                              {"non_linearity", "relu"},
                              {"peft_type", "BOTTLENECK"},
                              {"task_type", "CAUSAL_LM"}});
  writer.name_layers(config);
  writer.write(config, out, existing);
}

}  // namespace offsite
