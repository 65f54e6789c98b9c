// Against files and numbers of PEFT itself: tests/golden/make_peft.py.
#include "offsite/trainer/peft_folder.hpp"

#include <ATen/ops/equal.h>

#include <cstdlib>
#include <functional>

#include "adapters/layers.hpp"
#include "offsite/blocks/run_blocks.hpp"
#include "offsite/data/packed_batch.hpp"
#include "offsite/trainer/offsite_tuning.hpp"
#include "support/tensors.hpp"
#include "trainer/golden_training.hpp"

namespace peft_folder_test {

using namespace offsite;
using golden_training::model, golden_training::samples;
using support::layer, support::relative_error;

namespace {

using Access = BlockAccess<Gpt2>;

const char* const kPeftKinds[] = {"lora", "rslora", "dora"};

std::filesystem::path golden(const std::string& kind) { return support::golden("peft/" + kind); }

PackedBatch batch() {
  auto five = samples();
  five.resize(5);
  return pack(five);
}

at::Tensor logits(Gpt2& m) {
  const auto b = batch();
  return m.logits(run_blocks<Access>(m, m.embed(b.ids, b.sequences), b.sequences, b.scored_rows));
}

/// Reads a copy of the golden folder "lora" after `change` was made to its configuration or its tensors.
std::string refused(const std::function<void(Json&)>& change_config,
                    const std::function<void(std::vector<NamedView>&)>& change_tensors = {}) {
  const support::TemporaryFolder folder;
  auto config = read_json(golden("lora") / "adapter_config.json");
  if (change_config) change_config(config);
  write_json(folder / "adapter_config.json", config);
  const SafetensorsFile file(golden("lora") / "adapter_model.safetensors");
  std::vector<NamedView> views;
  for (const auto& name : file.names()) views.push_back({name, file.at(name)});
  if (change_tensors) change_tensors(views);
  save_safetensors(folder / "adapter_model.safetensors", views);
  Gpt2 m = model();
  auto text = support::message_of<ProtocolError>([&] { load_peft(m, folder.path()); });
  const auto at = text.find(folder.path().string());
  return at == text.npos ? text : text.replace(at, folder.path().string().size(), "F");
}

}  // namespace

TEST_CASE("PEFT: its folders are read, and logits and gradients of the factors are PEFT's") {
  for (const std::string kind : kPeftKinds) {
    CAPTURE(kind);
    const SafetensorsFile expected(golden(kind) / "expected.safetensors");
    const auto tensor = [&](const std::string& name) {
      return tensor_over(expected.at(name), expected.owner());
    };
    Gpt2 m = model();
    const at::Tensor plain = logits(m);
    const Lora lora = load_peft(m, golden(kind));
    CHECK(lora.dora == (kind == "dora"));
    CHECK(lora.rslora == (kind == "rslora"));
    CHECK(relative_error(logits(m), tensor("logits")) < 1e-5);
    CHECK(relative_error(plain, tensor("logits")) > 1e-2);

    const std::vector<std::int64_t> all{0, 1, 2, 3, 4, 5};
    TrainedModel<Gpt2> trained(m, all, {all, false}, at::kFloat, lora);
    const auto b = batch();
    const double loss =
        trained.add_gradients(b, b.targets.numel(), {}) / static_cast<double>(b.targets.numel());
    CHECK(loss == doctest::Approx(tensor("loss").item<double>()).epsilon(1e-5));
    std::size_t found = 0;
    for (const auto& t : trained.parameters().layout().tensors()) {
      CAPTURE(t.name);
      ++found;
      CHECK(relative_error(FlatParameters::view(trained.parameters().gradients(), t),
                           tensor("grad.base_model.model." + t.name)) < 1e-5);
    }
    CHECK(found + 2 == expected.names().size());

    MergeReport report;
    for (auto& block : m.blocks) merge_modules<Access>(block, report);
    CHECK(relative_error(logits(m), tensor("logits")) < 1e-5);
  }
}

TEST_CASE("PEFT: what is written is what PEFT wrote, tensor by tensor and setting by setting") {
  const support::TemporaryFolder temporary;
  const char* wanted = std::getenv("OFFSITE_KEEP_PEFT");  // for `make_peft.py check`
  const std::filesystem::path folder = wanted != nullptr ? std::filesystem::path(wanted) : temporary.path();
  for (const std::string kind : kPeftKinds) {
    CAPTURE(kind);
    Gpt2 m = model();
    const Lora lora = load_peft(m, golden(kind));
    save_peft(m, lora, "model", folder / kind, StagedFolder::kReplace);
    const SafetensorsFile ours(folder / kind / "adapter_model.safetensors"),
        theirs(golden(kind) / "adapter_model.safetensors");
    REQUIRE(ours.names() == theirs.names());
    for (const auto& name : ours.names())
      CHECK(
          at::equal(tensor_over(ours.at(name), ours.owner()), tensor_over(theirs.at(name), theirs.owner())));
    const auto config = read_json(folder / kind / "adapter_config.json");
    const auto reference = read_json(golden(kind) / "adapter_config.json");
    for (const auto& [name, value] : config.items()) {
      CAPTURE(name);
      REQUIRE(reference.contains(name));  // PEFT knows every setting that we write
      if (name != "target_modules" && name != "layers_to_transform") CHECK(reference.at(name) == value);
    }
    Gpt2 again = model();
    load_peft(again, folder / kind);
    CHECK(at::equal(logits(again), logits(m)));
  }
}

TEST_CASE("PEFT: where blocks differ in their layers, each is named in full") {
  Gpt2 m = model();
  const Lora lora = load_peft(m, golden("lora"));
  layer(m, 0, "mlp.c_fc").low_rank = {};
  const support::TemporaryFolder folder;
  save_peft(m, lora, "model", folder / "p");
  const auto config = read_json(folder / "p" / "adapter_config.json");
  CHECK_FALSE(config.contains("layers_to_transform"));
  CHECK(config.at("target_modules").size() == 7);
  CHECK(config.at("target_modules").at(std::size_t{0}) == Json("transformer.h.0.attn.c_attn"));
  Gpt2 again = model();
  load_peft(again, folder / "p");
  CHECK(at::equal(logits(again), logits(m)));
}

TEST_CASE("PEFT: what an owner plugs in is the same merged and as a folder") {
  const Gpt2 full = model();
  Lora lora;
  lora.rank = 3;
  lora.dora = true;
  OffsiteTuning<Gpt2, UniformDrop, FedAvg, Lora> tuner(full, golden_training::cut(), {}, {}, lora);
  (void)tuner.train(samples(), {.learning_rate = 1e-2, .max_steps = 5});
  tuner.aggregate(std::vector{tuner.update(1)});
  auto merged = tuner.owner().plug_in();
  auto unmerged = tuner.owner().plug_in_unmerged();
  const support::TemporaryFolder folder;
  save_peft(unmerged.model, lora, "model", folder / "p");
  Gpt2 read = model();
  const Lora settings = load_peft(read, folder / "p");
  CHECK(settings.scale() == lora.scale());
  CHECK(at::equal(logits(read), logits(unmerged.model)));
  CHECK(relative_error(logits(read), logits(merged.model)) < 1e-5);
  Gpt2 plain = model();
  CHECK(relative_error(logits(plain), logits(merged.model)) > 1e-3);
  CHECK(support::message_of<ArgumentError>([&] { save_peft(plain, lora, "model", folder / "q"); }) ==
        "no layer of the model carries a low-rank change, so there is nothing for PEFT");
  lora.rank = 2;
  CHECK(support::message_of<ArgumentError>([&] { save_peft(unmerged.model, lora, "model", folder / "q"); }) ==
        "the layer transformer.h.0.attn.c_attn has rank 3 and scale 5.333333333333333, but the folder is "
        "written "
        "for rank 2 and scale 8");
}

TEST_CASE(
    "PEFT: a folder of another kind, with settings not supported or tensors that do not fit is refused") {
  const auto with = [](const char* name, Json value) {
    return refused([&](Json& config) { config[name] = value; });
  };
  CHECK(with("peft_type", "IA3") ==
        "F/adapter_config.json is of the PEFT type 'IA3', but only LORA is supported");
  CHECK(with("bias", "all") == "F/adapter_config.json sets 'bias' to \"all\", which is not supported");
  CHECK(with("rank_pattern", Json::object({{"c_attn", 2}})) ==
        "F/adapter_config.json sets 'rank_pattern' to {\"c_attn\":2}, which is not supported");
  CHECK(with("init_lora_weights", "pissa") ==
        "F/adapter_config.json sets 'init_lora_weights' to \"pissa\", which is not supported");
  CHECK(with("r", 0) == "'r' of F/adapter_config.json is 0, but it must be an integer from 1 to 65536");
  CHECK(with("lora_alpha", -1) == "F/adapter_config.json: LoRA's alpha is -1, but it must be positive");
  CHECK(with("use_dora", 1) == "'use_dora' of F/adapter_config.json is 1, but it must be true or false");
  CHECK(with("r", 5) ==
        "tensor 'base_model.model.transformer.h.0.attn.c_attn.lora_A.weight' of F/adapter_model.safetensors "
        "has "
        "shape [4, 24], but the configuration asks for [5, 24]");
  CHECK(with("use_dora", true) ==
        "F/adapter_model.safetensors lacks the tensor "
        "'base_model.model.transformer.h.0.attn.c_attn.lora_magnitude_vector' of shape [72]");
  CHECK(refused({}, [](auto& views) { views[1].name = "base_model.model.lm_head.lora_B.weight"; })
            .ends_with("lacks the tensor 'base_model.model.transformer.h.0.attn.c_attn.lora_B.weight' of "
                       "shape [72, 4]"));
  CHECK(refused({},
                [](auto& views) {
                  views.push_back({"base_model.model.lm_head.lora_A.weight", views[0].tensor});
                }) ==
        "F/adapter_model.safetensors holds the tensor 'base_model.model.lm_head.lora_A.weight', which "
        "belongs to no "
        "linear layer of the model's blocks");
}

}  // namespace peft_folder_test
