#include "offsite/trainer/offer_folder.hpp"

#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>

#include <functional>

#include "support/change_tensors.hpp"
#include "support/test.hpp"
#include "support/tiny_gpt2.hpp"

namespace offer_folder_test {

using namespace offsite;
namespace fs = std::filesystem;

namespace {

const SplitPlan kPlan{6, {0, 5}, {1, 4}};

/// A model folder of 6 blocks and an offer of it.
struct Setting {
  support::TemporaryFolder folder;
  fs::path source = tiny::Folder(tiny::config(6)).write(folder / "m");
  Gpt2 full = load_model<Gpt2>(source);

  explicit Setting(const OfferOptions& options = {}) { write("o", options); }

  DisclosureReport write(const std::string& name, const OfferOptions& options = {},
                         const SplitPlan& plan = kPlan) {
    return write_offer(full, Offer<Gpt2>{plan, BlockAccess<Gpt2>::select(full, plan.kept())}, source,
                       folder / name, options);
  }
  [[nodiscard]] ReceivedOffer<Gpt2> read(const std::optional<fs::path>& own = {}) const {
    return read_offer<Gpt2>(folder / "o", own);
  }
  /// What reading the offer says; paths are cut to their last part.
  template <class E = ProtocolError>
  [[nodiscard]] std::string refusal() const {
    return support::without_folder(support::message_of<E>([&] { (void)read(); }), folder.path());
  }
  /// Writes the offer's weights again, changed.
  void tamper(const std::function<void(std::map<std::string, at::Tensor>&)>& change) const {
    support::change_tensors(folder / "o/model.safetensors", change);
  }
  void edit(const std::string& file, const std::function<void(Json&)>& change) const {
    auto json = read_json(folder / ("o/" + file));
    change(json);
    write_json(folder / ("o/" + file), json);
  }
};

std::map<std::string, at::Tensor> tensors_of(Gpt2& model, const std::vector<std::int64_t>& numbers) {
  std::map<std::string, at::Tensor> tensors;
  visit_parameters<BlockAccess<Gpt2>>(
      model, numbers, [&](const std::string& name, const at::Tensor& tensor) { tensors[name] = tensor; });
  return tensors;
}

}  // namespace

TEST_CASE("offer folder: what is read is what was written, under the full model's names and numbers") {
  for (const std::uint64_t shard : {1 << 30, 3000}) {
    OfferOptions options;
    options.max_shard_bytes = shard;
    const Setting setting(options);
    auto received = setting.read();
    CHECK(received.offer.plan == kPlan);
    CHECK(received.split.adapter_policy == "whole_blocks");
    CHECK(received.split.dtype == "auto");
    CHECK(received.split_sha256 == file_sha256(setting.folder / "o/split.json"));
    CHECK(received.disclosure.verbatim_share < 1);
    CHECK(received.offer.model.blocks.size() == 4);
    CHECK(received.offer.model.blocks[2].index == 4);
    CHECK(tokenizer_sha256(received.tokenizer) == tokenizer_sha256(setting.source));
    CHECK_FALSE(tokenizer_sha256(received.tokenizer).empty());
    auto original = setting.full;
    auto all = tensors_of(original, detail::all_blocks(6));
    const auto got = tensors_of(received.offer.model, kPlan.kept());
    CHECK(got.size() == 4 + 4 * 12);
    for (const auto& [name, tensor] : got) {
      CAPTURE(name);
      CHECK(at::equal(tensor, all.at(name)));
    }
    CHECK(got.contains("transformer.h.4.mlp.c_fc.weight"));
    CHECK_FALSE(got.contains("transformer.h.2.mlp.c_fc.weight"));
  }
}

TEST_CASE("offer folder: an untied head goes along") {
  const support::TemporaryFolder folder;
  auto config = tiny::config(6);
  config.tie_word_embeddings = false;
  tiny::Folder(config).write(folder / "m");
  const auto full = load_model<Gpt2>(folder / "m");
  write_offer(full, Offer<Gpt2>{kPlan, BlockAccess<Gpt2>::select(full, kPlan.kept())}, folder / "m",
              folder / "o");
  CHECK(at::equal(read_offer<Gpt2>(folder / "o").offer.model.head.weight, full.head.weight));
}

TEST_CASE("offer folder: dtype changes emulator and shared parameters, never the adapters") {
  OfferOptions options;
  options.dtype = Dtype::kBF16;
  const Setting setting(options);
  auto received = setting.read();
  CHECK(received.split.dtype == "bfloat16");
  for (const auto& [name, tensor] : tensors_of(received.offer.model, kPlan.kept())) {
    CAPTURE(name);
    const bool adapter = name.starts_with("transformer.h.0.") || name.starts_with("transformer.h.5.");
    CHECK(dtype_of(tensor.scalar_type()) == (adapter ? Dtype::kF32 : Dtype::kBF16));
  }
  CHECK(received.disclosure.verbatim_share == Setting().read().disclosure.verbatim_share);
  CHECK(dtype_of(setting.full.wte.scalar_type()) == Dtype::kF32);  // the owner's model stays
}

TEST_CASE("offer folder: shared parameters that are left out come from the client's own folder") {
  OfferOptions options;
  options.shared =
      std::vector<std::string>{"transformer.ln_f.weight", "transformer.ln_f.bias", "transformer.wpe.weight"};
  options.dtype = Dtype::kF16;
  const Setting setting(options);
  CHECK_FALSE(SafetensorsFile(setting.folder / "o/model.safetensors").contains("transformer.wte.weight"));
  CHECK(setting.refusal<ArgumentError>() ==
        "the offer o leaves out the shared parameter 'transformer.wte.weight', which the client must bring: "
        "name a "
        "folder that holds it");
  CHECK(at::equal(setting.read(setting.source).offer.model.wte, setting.full.wte));

  tiny::Folder(tiny::config(6)).without_prefix().write(setting.folder / "bare");
  CHECK(at::equal(setting.read(setting.folder / "bare").offer.model.wte, setting.full.wte));
  tiny::Folder(tiny::config(6), 99).write(setting.folder / "other");
  CHECK(support::message_of<ProtocolError>([&] { (void)setting.read(setting.folder / "other"); })
            .starts_with((setting.folder / "other/model.safetensors").string() +
                         " is not what split.json describes: tensor 'transformer.wte.weight' has SHA-256 "));

  options.shared = std::vector<std::string>{"wte"};
  CHECK(support::message_of<ArgumentError>([&] { Setting again(options); }) ==
        "the shared parameter 'wte' was to go along, but the model has none of that name");
}

TEST_CASE("write_offer: what is refused leaves nothing on disk") {
  Setting setting;
  const auto before = tiny::contents(setting.folder.path());
  CHECK(support::message_of<ArgumentError>([&] {
          setting.write("p", {}, {6, {0, 5}, {1, 2, 3, 4}});
        }).starts_with("the offer is refused: it holds all 6 blocks as they are"));
  OfferOptions strict;
  strict.policy.max_verbatim_share = 0.2;
  CHECK(support::message_of<ArgumentError>([&] {
          setting.write("p", strict);
        }).ends_with("but --max-verbatim is 0.2"));
  CHECK(support::message_of<ArgumentError>([&] { setting.write("o"); }) ==
        "the folder " + (setting.folder / "o").string() +
            " exists and is not empty, and replacing it was not asked for");
  CHECK(support::message_of<ArgumentError>([&] {
          write_offer(setting.full, Offer<Gpt2>{{7, {0, 6}, {1}}, setting.full}, setting.source,
                      setting.folder / "p");
        }) ==
        "the split was made of 7 blocks, but " + (setting.source / "config.json").string() + " describes 6");
  CHECK(tiny::contents(setting.folder.path()) == before);
  CHECK_FALSE(fs::exists(setting.folder / "p"));

  OfferOptions lifted;
  lifted.policy.max_verbatim_share = 1;
  CHECK(setting.write("p", lifted, {6, {0, 5}, {1, 2, 3, 4}}).rebuildable);
}

TEST_CASE("read_offer: a tampered, missing, extra or misshaped tensor gives one sentence") {
  const std::string name = "transformer.h.4.ln_1.bias", file = "o/model.safetensors";
  {
    const Setting setting;
    setting.tamper([&](auto& tensors) { tensors[name][0] += 1; });
    CHECK(setting.refusal().starts_with(file + " is not what split.json describes: tensor '" + name +
                                        "' has SHA-256 "));
  }
  {
    const Setting setting;
    setting.tamper([&](auto& tensors) { tensors.erase(name); });
    CHECK(setting.refusal() == file + " lacks the tensor '" + name + "' of shape [8]");
  }
  {
    const Setting setting;
    setting.tamper([&](auto& tensors) { tensors["transformer.h.2.ln_1.bias"] = at::ones({8}); });
    CHECK(setting.refusal() ==
          file + " holds the tensor 'transformer.h.2.ln_1.bias', which split.json does not put there");
  }
  {
    const Setting setting;
    setting.tamper([&](auto& tensors) { tensors[name] = at::ones({9}); });
    CHECK(setting.refusal() ==
          "tensor '" + name + "' of " + file + " has shape [9], but the configuration asks for [8]");
  }
  {
    const Setting setting;
    setting.tamper([&](auto& tensors) { tensors[name] = tensors[name].to(at::kDouble); });
    CHECK(setting.refusal() == file + " is not what split.json describes: tensor '" + name +
                                   "' has type F64, but F32 was expected");
  }
}

TEST_CASE("read_offer: texts that do not fit split.json give one sentence") {
  {
    const Setting setting;
    setting.edit("split.json", [](auto& j) { j["model_type"] = "opt"; });
    CHECK(setting.refusal() == "o/split.json is of model type 'opt', but this reads 'gpt2'");
  }
  {
    const Setting setting;
    setting.edit("config.json", [](auto& j) { j["n_head"] = 4; });
    CHECK(setting.refusal() ==
          "o/config.json is not what split.json describes: 'n_head' of the configuration is 4, but 2 was "
          "expected");
  }
  {
    const Setting setting;
    setting.edit("split.json", [](auto& j) { j["blocks"]["depth"] = 7; });
    CHECK(setting.refusal() ==
          "o/config.json is not what split.json describes: it has 6 blocks, but 7 were expected");
  }
  {
    const Setting setting;  // other block numbers than the weights have
    setting.edit("split.json", [](auto& j) { j["blocks"]["emulator"] = Json::array({1, 3}); });
    setting.edit("disclosure.json", [](auto& j) { j["emulator"] = Json::array({1, 3}); });
    CHECK(setting.refusal() ==
          "o/split.json lacks the tensor 'transformer.h.3.ln_1.weight', which these blocks need");
  }
  {
    const Setting setting;
    setting.edit("split.json", [](auto& j) {
      j["tensors"]["x"] = Json::object({{"dtype", "F32"},
                                        {"shape", Json::array({1})},
                                        {"sha256", std::string(64, '0')},
                                        {"travels", false}});
    });
    CHECK(setting.refusal() == "o/split.json lists the tensor 'x', which is no part of these blocks");
  }
  {
    const Setting setting;
    support::write_file(setting.folder / "o/merges.txt", "#version: 0.2\nx y\n");
    CHECK(setting.refusal().starts_with(
        "the tokenizer in o is not what split.json describes: its SHA-256 is "));
  }
  {
    const Setting setting;
    setting.edit("disclosure.json", [](auto& j) { j["emulator"] = Json::array({1, 2}); });
    CHECK(setting.refusal() == "o/disclosure.json is not what split.json describes: its blocks are others");
  }
}

TEST_CASE("read_offer: missing and broken files and paths that lead elsewhere give one sentence") {
  for (const auto* file : {"split.json", "config.json", "disclosure.json"}) {
    const Setting setting;
    fs::remove(setting.folder / ("o/" + std::string(file)));
    CHECK(setting.refusal<ArgumentError>() ==
          fmt::format("cannot read o/{}: No such file or directory", file));
    support::write_file(setting.folder / ("o/" + std::string(file)), "{");
    CHECK(setting.refusal().starts_with(fmt::format("o/{} is not valid JSON: ", file)));
  }
  {
    const Setting setting;
    fs::remove(setting.folder / "o/model.safetensors");
    CHECK(setting.refusal<ArgumentError>() ==
          "o holds neither model.safetensors nor model.safetensors.index.json");
    write_json(
        setting.folder / "o/model.safetensors.index.json",
        Json::object({{"weight_map", Json::object({{"transformer.wte.weight", "../m/model.safetensors"}})}}));
    CHECK(setting.refusal() ==
          "o/model.safetensors.index.json puts tensor 'transformer.wte.weight' into "
          "'../m/model.safetensors', which "
          "is not the plain name of a safetensors file in this folder");
  }
  const support::TemporaryFolder empty;
  CHECK(support::message_of<ArgumentError>([&] { (void)read_offer<Gpt2>(empty / "no"); }) ==
        (empty / "no").string() + " is no folder, but an offer is a folder");
}

}  // namespace offer_folder_test
