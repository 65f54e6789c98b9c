#include "offsite/trainer/bottleneck_folder.hpp"

#include <ATen/ops/equal.h>

#include <functional>

#include "adapters/layers.hpp"
#include "offsite/blocks/run_blocks.hpp"
#include "offsite/data/packed_batch.hpp"
#include "offsite/trainer/offsite_tuning.hpp"
#include "offsite/trainer/peft_folder.hpp"
#include "support/tensors.hpp"
#include "trainer/golden_training.hpp"

namespace bottleneck_folder_test {

using namespace offsite;
using golden_training::model;
using support::layer, support::relative_error;

namespace {

using Access = BlockAccess<Gpt2>;

at::Tensor logits(Gpt2& m) {
  auto five = golden_training::samples();
  five.resize(5);
  const auto b = pack(five);
  return m.logits(run_blocks<Access>(m, m.embed(b.ids, b.sequences), b.sequences, b.scored_rows));
}

Bottleneck settings() {
  Bottleneck bottleneck;
  bottleneck.width = 3;
  bottleneck.dropout = 0.25;
  return bottleneck;
}

/// A model with trained networks in its first and last block.
Gpt2 plugged() {
  OffsiteTuning<Gpt2, UniformDrop, FedAvg, Bottleneck> tuner(model(), golden_training::cut(), {}, {},
                                                             settings());
  (void)tuner.train(golden_training::samples(), {.learning_rate = 1e-2, .max_steps = 3});
  tuner.aggregate(std::vector{tuner.update(1)});
  return tuner.owner().plug_in().model;
}

/// What is said of a folder after `change` was made to its configuration or its tensors.
std::string refused(const std::filesystem::path& good, const std::function<void(Json&)>& change_config,
                    const std::function<void(std::vector<NamedView>&)>& change_tensors = {}) {
  const support::TemporaryFolder folder;
  auto config = read_json(good / "adapter_config.json");
  if (change_config) change_config(config);
  write_json(folder / "adapter_config.json", config);
  const SafetensorsFile file(good / "adapter_model.safetensors");
  std::vector<NamedView> views;
  for (const auto& name : file.names()) views.push_back({name, file.at(name)});
  if (change_tensors) change_tensors(views);
  save_safetensors(folder / "adapter_model.safetensors", views);
  Gpt2 m = model();
  auto text = support::message_of<ProtocolError>([&] { load_bottleneck(m, folder.path()); });
  const auto at = text.find(folder.path().string());
  return at == text.npos ? text : text.replace(at, folder.path().string().size(), "F");
}

}  // namespace

TEST_CASE("bottleneck folder: what was written is read, bit for bit, with its settings") {
  Gpt2 trained = plugged(), plain = model(), read = model();
  CHECK(relative_error(logits(plain), logits(trained)) > 1e-3);
  const support::TemporaryFolder folder;
  save_bottleneck(trained, settings(), "base", folder / "b");
  CHECK(load_bottleneck(read, folder / "b") == settings());
  CHECK(at::equal(logits(read), logits(trained)));
  const auto& network = layer(read, 5, "mlp.c_proj").bottleneck;
  CHECK(network.dropout.rate == 0.25);
  CHECK(network.dropout.place == layer(trained, 5, "mlp.c_proj").bottleneck.dropout.place);
  const auto config = read_json(folder / "b" / "adapter_config.json");
  CHECK(config.at("peft_type") == Json("BOTTLENECK"));
  CHECK(config.at("base_model_name_or_path") == Json("base"));
  CHECK(config.at("layers_to_transform") == Json(std::vector<std::int64_t>{0, 5}));
  CHECK(config.at("target_modules") == Json(std::vector<std::string>{"attn.c_proj", "mlp.c_proj"}));
}

TEST_CASE("bottleneck folder: keys without the model's prefix are read too") {
  Gpt2 trained = plugged(), read = model();
  const support::TemporaryFolder folder;
  save_bottleneck(trained, settings(), "base", folder / "b");
  const SafetensorsFile file(folder / "b" / "adapter_model.safetensors");
  std::vector<NamedView> views;
  for (const auto& name : file.names())
    views.push_back({std::string(name).erase(name.find("transformer."), 12), file.at(name)});
  std::filesystem::create_directory(folder / "bare");
  save_safetensors(folder / "bare" / "adapter_model.safetensors", views);
  std::filesystem::copy(folder / "b" / "adapter_config.json", folder / "bare" / "adapter_config.json");
  load_bottleneck(read, folder / "bare");
  CHECK(at::equal(logits(read), logits(trained)));
}

TEST_CASE("bottleneck folder: what does not fit is refused") {
  Gpt2 trained = plugged(), plain = model();
  const support::TemporaryFolder folder;
  CHECK(support::message_of<ArgumentError>([&] { save_bottleneck(plain, settings(), "b", folder / "no"); }) ==
        "no bottleneck stands behind a layer of the model, so there is nothing to write");
  CHECK(
      support::message_of<ArgumentError>([&] { save_bottleneck(trained, {}, "b", folder / "no"); }) ==
      "the network behind the layer transformer.h.0.attn.c_proj is 3 wide, but the folder is written for 64");
  CHECK_FALSE(std::filesystem::exists(folder / "no"));
  const auto good = folder / "b";
  save_bottleneck(trained, settings(), "base", good);
  const auto with = [&](const char* name, Json value) {
    return refused(good, [&](Json& config) { config[name] = value; });
  };
  CHECK(with("peft_type", "LORA") ==
        "F/adapter_config.json is of the PEFT type 'LORA', but a bottleneck's is BOTTLENECK");
  CHECK(with("non_linearity", "gelu") ==
        "F/adapter_config.json sets 'non_linearity' to 'gelu', but only relu is supported");
  CHECK(with("scaling", 2) ==
        "F/adapter_config.json holds the field 'scaling', which this version does not know");
  CHECK(with("bottleneck_size", 0) ==
        "'bottleneck_size' of F/adapter_config.json is 0, but it must be an integer from 1 to 65536");
  CHECK(with("adapter_dropout", 1) ==
        "F/adapter_config.json: the bottleneck's dropout is 1, but it must be at least 0 and below 1");
  CHECK(with("bottleneck_size", 4) ==
        "tensor 'base_model.model.transformer.h.0.attn.c_proj.bottleneck_down.weight' of "
        "F/adapter_model.safetensors has shape [3, 24], but the configuration asks for [4, 24]");
  CHECK(
      refused(good, {}, [](auto& views) { views.erase(views.begin() + 3); })
          .ends_with("lacks the tensor "
                     "'base_model.model.transformer.h.0.attn.c_proj.bottleneck_up.weight' of shape [24, 3]"));
  CHECK(refused(good, {}, [](auto& views) {
          views.push_back({"base_model.model.lm_head.weight", views[0].tensor});
        }).ends_with("which belongs to no linear layer of the model's blocks"));
  Gpt2 m = model();
  CHECK(support::message_of<ProtocolError>([&] {
          load_peft(m, good);
        }).ends_with("is of the PEFT type 'BOTTLENECK', but only LORA is supported"));
}

}  // namespace bottleneck_folder_test
