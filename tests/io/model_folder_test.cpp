#include "offsite/io/model_folder.hpp"

#include <ATen/ops/allclose.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include "support/test.hpp"
#include "support/tiny_gpt2.hpp"

namespace model_folder_test {

using namespace offsite;
namespace fs = std::filesystem;

namespace {

at::Tensor tensor_of(Gpt2& model, std::string_view name) {
  at::Tensor found;
  visit_parameters<BlockAccess<Gpt2>>(model, detail::all_blocks(model.config.n_layer),
                                      [&](const std::string& full, const at::Tensor& tensor) {
                                        if (full == name) found = tensor;
                                      });
  return found;
}

/// What reading the folder says; its path is cut out.
std::string refusal(const tiny::Folder& given, std::uint64_t shard = 1 << 30) {
  const support::TemporaryFolder folder;
  given.write(folder / "m", shard);
  auto text = support::message_of<ProtocolError>([&] { (void)load_model<Gpt2>(folder / "m"); });
  const auto path = (folder / "m").string();
  for (auto at = text.find(path); at != text.npos; at = text.find(path)) text.replace(at, path.size(), "M");
  return text;
}

}  // namespace

TEST_CASE("load_model: reads every tensor, with and without the prefix, in one file and in shards") {
  for (const bool bare : {false, true})
    for (const std::uint64_t shard : {1 << 30, 2000}) {
      CAPTURE(bare);
      CAPTURE(shard);
      const support::TemporaryFolder folder;
      const tiny::Folder original;
      auto written = original;
      if (bare) written.without_prefix();
      written["h.0.attn.bias"] = at::ones({1, 1, 16, 16}, at::kByte);  // buffers are passed over
      written["transformer.h.3.attn.masked_bias"] = at::zeros({});
      if (bare) written.erase("transformer.h.3.attn.masked_bias");
      auto model = load_model<Gpt2>(written.write(folder / "m", shard));
      CHECK(model.config.n_layer == 4);
      CHECK(model.config.source.at("unknown_field") == 0.25);
      for (const auto& [name, tensor] : original.tensors) {
        CAPTURE(name);
        CHECK(at::equal(tensor_of(model, name), tensor));
      }
    }
}

TEST_CASE("load_model: weights keep their types and lie in the mapped file, not in copies") {
  const support::TemporaryFolder folder;
  tiny::Folder written;
  written["transformer.wpe.weight"] = written["transformer.wpe.weight"].to(at::kBFloat16);
  written["transformer.ln_f.weight"] = written["transformer.ln_f.weight"].to(at::kDouble);
  written.write(folder / "m");
  const CheckpointFolder opened(folder / "m");
  auto model = load_model<Gpt2>(folder / "m");
  CHECK(dtype_of(model.wpe.scalar_type()) == Dtype::kBF16);
  CHECK(dtype_of(model.head.norm->weight.scalar_type()) == Dtype::kF64);
  std::size_t changed = 0;
  visit_parameters<BlockAccess<Gpt2>>(model, detail::all_blocks(4), [&](const auto&, at::Tensor& tensor) {
    tensor.add_(1);  // private pages: the file stays as it is
    ++changed;
  });
  CHECK(changed == 4 + 12 * 4);
  CHECK(at::equal(load_model<Gpt2>(folder / "m").wte, written["transformer.wte.weight"]));
}

TEST_CASE("load_model: a tied head may be there if it is equal, an untied one must be") {
  const support::TemporaryFolder folder;
  tiny::Folder written;
  written["lm_head.weight"] = written["transformer.wte.weight"].clone();
  CHECK_FALSE(load_model<Gpt2>(written.write(folder / "tied")).head.weight.defined());
  CHECK_FALSE(load_model<Gpt2>(tiny::Folder(written).without_prefix().write(folder / "bare")).head.weight.defined());

  written["lm_head.weight"][3][2] += 1;
  CHECK(refusal(written) ==
        "M/model.safetensors holds a tensor 'lm_head.weight' that differs from 'transformer.wte.weight', but "
        "the "
        "configuration says that they are tied");
  written.config["tie_word_embeddings"] = false;
  CHECK(at::equal(load_model<Gpt2>(written.write(folder / "untied")).head.weight, written["lm_head.weight"]));
  written.erase("lm_head.weight");
  CHECK(refusal(written) == "M/model.safetensors lacks the tensor 'lm_head.weight' of shape [11, 8]");
}

TEST_CASE("load_model: a missing, extra, misshaped or integer tensor gives one sentence") {
  tiny::Folder missing;
  missing.erase("transformer.h.2.mlp.c_fc.bias");
  CHECK(refusal(missing) ==
        "M/model.safetensors lacks the tensor 'transformer.h.2.mlp.c_fc.bias' of shape [32]");
  CHECK(refusal(missing, 2000) == "M lacks the tensor 'transformer.h.2.mlp.c_fc.bias' of shape [32]");

  tiny::Folder extra;
  extra["transformer.h.4.ln_1.bias"] = at::zeros({8});
  CHECK(refusal(extra) ==
        "M/model.safetensors holds the tensor 'transformer.h.4.ln_1.bias', which is no part of a gpt2 model "
        "of this "
        "configuration");

  tiny::Folder misshaped;
  misshaped["transformer.h.1.attn.c_attn.weight"] = at::zeros({8, 23});
  CHECK(refusal(misshaped) ==
        "tensor 'transformer.h.1.attn.c_attn.weight' of M/model.safetensors has shape [8, 23], but the "
        "configuration asks for [8, 24]");

  tiny::Folder integer;
  integer["transformer.ln_f.bias"] = at::zeros({8}, at::kInt);
  CHECK(refusal(integer) ==
        "tensor 'transformer.ln_f.bias' of M/model.safetensors is of type I32, but weights are F32, F16, "
        "BF16 or F64");

  tiny::Folder mixed;
  mixed["wpe.weight"] = at::zeros({16, 8});
  CHECK(refusal(mixed) ==
        "M/model.safetensors holds the tensor 'wpe.weight' without the prefix 'transformer.' that others "
        "have, but a "
        "folder spells all of them one way");
}

TEST_CASE("load_model: another model type, a broken configuration and a missing one give one sentence") {
  tiny::Folder other;
  other.config["model_type"] = "opt";
  CHECK(refusal(other) == "M/config.json is of model type 'opt', but this reads 'gpt2'");
  tiny::Folder broken;
  broken.config["n_head"] = 3;
  CHECK(refusal(broken).starts_with("M/config.json: "));
  CHECK(refusal(broken).find("n_embd is 8, which does not divide into n_head = 3 heads") !=
        std::string::npos);

  const support::TemporaryFolder folder;
  CHECK(support::message_of<ArgumentError>([&] { (void)load_model<Gpt2>(folder / "no"); }) ==
        (folder / "no").string() + " is no folder, but a checkpoint is a folder");
  CHECK(support::message_of<ArgumentError>([&] { (void)model_type_of(folder / "no"); }) ==
        (folder / "no").string() + " is no folder, but a model is a folder");
  tiny::Folder().write(folder / "m");
  CHECK(model_type_of(folder / "m") == "gpt2");
  fs::remove(folder / "m/config.json");
  CHECK(support::message_of<ArgumentError>([&] { (void)load_model<Gpt2>(folder / "m"); }) ==
        "cannot read " + (folder / "m/config.json").string() + ": No such file or directory");
  support::write_file(folder / "m/config.json", "{\"n_layer\": ");
  CHECK(support::message_of<ProtocolError>([&] {
          (void)load_model<Gpt2>(folder / "m");
        }).starts_with((folder / "m/config.json").string() + " is not valid JSON: "));
}

TEST_CASE("save_model: an unchanged model gives the folder back, byte for byte") {
  for (const bool bare : {false, true}) {
    CAPTURE(bare);
    const support::TemporaryFolder folder;
    tiny::Folder written;
    written["transformer.wpe.weight"] = written["transformer.wpe.weight"].to(at::kHalf);
    if (bare) written.without_prefix();
    written[bare ? "h.0.attn.bias" : "transformer.h.0.attn.bias"] = at::ones({1, 1, 16, 16}, at::kByte);
    written["lm_head.weight"] = written[bare ? "wte.weight" : "transformer.wte.weight"];
    written.write(folder / "m");
    auto model = load_model<Gpt2>(folder / "m");
    save_model(model, folder / "m", folder / "out");
    CHECK(tiny::contents(folder / "out") == tiny::contents(folder / "m"));
    CHECK(SafetensorsFile(folder / "out/model.safetensors").metadata().at("format") == "pt");
  }
}

TEST_CASE("save_model: a changed tensor is written in the source's type, and a tied copy follows it") {
  const support::TemporaryFolder folder;
  tiny::Folder written;
  written["lm_head.weight"] = written["transformer.wte.weight"];
  written["transformer.ln_f.bias"] = written["transformer.ln_f.bias"].to(at::kBFloat16);
  written.write(folder / "m");
  auto model = load_model<Gpt2>(folder / "m");
  model.wte = model.wte.add(1);
  model.head.norm->bias = at::ones({8}).mul(1.001);
  save_model(model, folder / "m", folder / "out", {.max_shard_bytes = 3000});
  const CheckpointFolder saved(folder / "out");
  CHECK(saved.files().size() > 2);
  CHECK(saved.at("transformer.ln_f.bias").dtype == Dtype::kBF16);
  auto again = load_model<Gpt2>(folder / "out");
  CHECK(at::equal(again.wte, model.wte));
  CHECK(saved.contains("lm_head.weight"));
  CHECK(at::equal(again.head.norm->bias, model.head.norm->bias.to(at::kBFloat16)));
  CHECK(at::equal(tensor_of(again, "transformer.h.1.ln_2.bias"),
                  tensor_of(model, "transformer.h.1.ln_2.bias")));
}

TEST_CASE("save_model: a type for all weights changes them and the configuration, and nothing else") {
  const support::TemporaryFolder folder;
  tiny::Folder written;
  written["transformer.h.0.attn.bias"] = at::ones({1, 1, 16, 16}, at::kByte);
  written.write(folder / "m");
  auto model = load_model<Gpt2>(folder / "m");
  save_model(model, folder / "m", folder / "out", {.dtype = Dtype::kBF16});
  const CheckpointFolder saved(folder / "out");
  for (const auto& name : saved.names())
    CHECK(saved.at(name).dtype == (name.ends_with(".attn.bias") ? Dtype::kU8 : Dtype::kBF16));
  auto config = written.config;
  config["torch_dtype"] = "bfloat16";
  CHECK(support::read_file(folder / "out/config.json") == config.dump(2) + "\n");
  CHECK(support::message_of<ArgumentError>([&] {
          save_model(model, folder / "m", folder / "out2", {.dtype = Dtype::kI8});
        }) == "weights are float32, float16, bfloat16 or float64, not I8");
}

TEST_CASE("save_model: what cannot be written leaves the disk as it was") {
  const support::TemporaryFolder folder;
  tiny::Folder().write(folder / "m");
  auto model = load_model<Gpt2>(folder / "m");
  CHECK(support::message_of<ArgumentError>([&] {
          save_model(model, folder / "m", folder / "m", {.existing = StagedFolder::kReplace});
        }) == (folder / "m").string() + " is the folder that the model was read from: name another");
  fs::create_directory(folder / "full");
  support::write_file(folder / "full/x", "x");
  const auto before = tiny::contents(folder.path());
  CHECK(support::message_of<ArgumentError>([&] { save_model(model, folder / "m", folder / "full"); }) ==
        "the folder " + (folder / "full").string() +
            " exists and is not empty, and replacing it was not asked for");

  auto shallow = BlockAccess<Gpt2>::select(model, std::vector<std::int64_t>{0, 1});
  CHECK(support::message_of<ArgumentError>([&] { save_model(shallow, folder / "m", folder / "out"); }) ==
        "4 block numbers were given for a model of 2 blocks");
  auto wide = model;
  wide.wpe = at::zeros({17, 8});
  CHECK(support::message_of<ProtocolError>([&] {
          save_model(wide, folder / "m", folder / "out");
        }).starts_with("tensor 'transformer.wpe.weight' of "));
  CHECK(tiny::contents(folder.path()) == before);
  save_model(model, folder / "m", folder / "full", {.existing = StagedFolder::kReplace});
  CHECK(tiny::contents(folder / "full") == tiny::contents(folder / "m"));
}

}  // namespace model_folder_test
