#include "offsite/trainer/returned_update.hpp"

#include <ATen/ops/ones.h>

#include <cmath>
#include <functional>
#include <numeric>

#include "offsite/adapters/whole_blocks.hpp"
#include "offsite/trainer/offer_folder.hpp"
#include "offsite/trainer/owner.hpp"
#include "support/change_tensors.hpp"
#include "support/test.hpp"
#include "support/tiny_gpt2.hpp"

namespace returned_update_test {

using namespace offsite;
namespace fs = std::filesystem;

namespace {

/// A model folder, an offer of it, and an update whose numbers count up.
struct Setting {
  support::TemporaryFolder folder;
  fs::path source = tiny::Folder(tiny::config(6)).write(folder / "m");
  Owner<Gpt2> owner{load_model<Gpt2>(source),
                    SplitOptions{.bottom_blocks = 1, .top_blocks = 1, .emulator_blocks = 2}};
  std::vector<float> delta;
  UpdateRecord record{.samples = 3, .scored_tokens = 17, .steps = 5, .loss = 1.5, .seed = 42};

  Setting() : delta(static_cast<std::size_t>(owner.layout().size())) {
    write_offer(owner.model(), owner.offer(), source, folder / "o");
    std::iota(delta.begin(), delta.end(), -100.f);
    write_update(folder / "u", folder / "o", owner.layout(), delta, record);
  }
  /// What opening the update says; paths are cut to their last parts.
  template <class E = ProtocolError>
  [[nodiscard]] std::string refusal() const {
    return cut(
        support::message_of<E>([&] { (void)client_update(UpdateFolder(folder / "u"), owner.layout()); }));
  }
  [[nodiscard]] std::string cut(std::string text) const {
    return support::without_folder(std::move(text), folder.path());
  }
  void tamper(const std::function<void(std::map<std::string, at::Tensor>&)>& change) const {
    support::change_tensors(folder / "u/update.safetensors", change);
  }
};

}  // namespace

TEST_CASE("update folder: what is read is what was written, weighted by the samples") {
  const Setting setting;
  const UpdateFolder update(setting.folder / "u");
  auto expected = setting.record;
  expected.split_sha256 = file_sha256(setting.folder / "o/split.json");
  CHECK(update.record() == expected);
  CHECK(support::read_file(setting.folder / "u/split.json") ==
        support::read_file(setting.folder / "o/split.json"));
  const auto received = client_update(update, setting.owner.layout());
  CHECK(received.weight == 3);
  CHECK(std::equal(setting.delta.begin(), setting.delta.end(), received.delta.begin(), received.delta.end()));
  const SafetensorsFile file(setting.folder / "u/update.safetensors");
  CHECK(file.names().size() == 24);
  CHECK(file.contains("transformer.h.5.mlp.c_proj.weight"));
  CHECK_NOTHROW(update.check_made_for(SplitSpecification::read(setting.folder / "o/split.json")));
  CHECK_NOTHROW(check_update_fits<Gpt2>(setting.source, update.split()));
}

TEST_CASE("update folder: one made for another split is refused in one sentence") {
  const Setting setting;
  auto other = SplitSpecification::read(setting.folder / "o/split.json");
  other.plan.emulator = {1, 3};
  CHECK(setting.cut(support::message_of<ProtocolError>([&] {
    UpdateFolder(setting.folder / "u").check_made_for(other);
  })) == "the update u was made for another split: the emulator's list of blocks is [1,4], but [1,3] was "
         "expected");
  const auto layout = Owner<Gpt2>(load_model<Gpt2>(setting.source),
                                  SplitOptions{.bottom_blocks = 2, .top_blocks = 1, .emulator_blocks = 2})
                          .layout();
  CHECK(setting.cut(support::message_of<ProtocolError>([&] {
    (void)client_update(UpdateFolder(setting.folder / "u"), layout);
  })) == "u/update.safetensors lacks the tensor 'transformer.h.1.ln_1.weight' of shape [8]");
}

TEST_CASE("update folder: a tampered, missing, extra, misshaped or infinite tensor gives one sentence") {
  const std::string name = "transformer.h.5.ln_1.bias", of = "' of u/update.safetensors ";
  const auto after = [&](const std::function<void(std::map<std::string, at::Tensor>&)>& change) {
    const Setting setting;
    setting.tamper(change);
    return setting.refusal();
  };
  CHECK(after([&](auto& t) { t.erase(name); }) ==
        "u/update.safetensors lacks the tensor '" + name + "' of shape [8]");
  CHECK(after([&](auto& t) { t["x"] = at::ones({1}); }) ==
        "tensor 'x" + of + "is no tensor of the split that it was made for");
  CHECK(after([&](auto& t) {
          t["transformer.wte.weight"] = at::ones({11, 8});
        }) == "u/update.safetensors holds the tensor 'transformer.wte.weight', which does not train");
  CHECK(after([&](auto& t) { t[name] = at::ones({9}); }) ==
        "tensor '" + name + of + "has shape [9], but [8] in the split");
  CHECK(after([&](auto& t) { t[name] = t[name].to(at::kHalf); }) ==
        "tensor '" + name + of + "is of type F16, but updates are F32");
  for (const float value : {INFINITY, -INFINITY, NAN})
    CHECK(after([&](auto& t) { t[name][3] = value; }) ==
          "tensor '" + name + of + "holds a number that is not finite");
}

TEST_CASE("update folder: records are checked") {
  const auto after = [&](const std::function<void(Json&)>& change) {
    const Setting setting;
    auto json = read_json(setting.folder / "u/update.json");
    change(json);
    write_json(setting.folder / "u/update.json", json);
    return setting.refusal();
  };
  CHECK(after([](auto& j) {
          j["samples"] = 0;
        }).starts_with("'samples' of u/update.json is 0, but it must be an integer from 1 to "));
  CHECK(after([](auto& j) {
          j["samples"] = 1.5;
        }).starts_with("'samples' of u/update.json is 1.5, but it must be "));
  CHECK(after([](auto& j) { j["loss"] = nullptr; }) ==
        "'loss' of u/update.json is null, but it must be a number");
  CHECK(after([](auto& j) { j["seed"] = -1; }) ==
        "'seed' of u/update.json is -1, but it must be a natural number");
  CHECK(after([](auto& j) { j.erase("steps"); }) == "u/update.json lacks the field 'steps'");
  CHECK(after([](auto& j) { j["format_version"] = 9; }) ==
        "u/update.json is of format version 9, but this reads version 1");
  CHECK(after([](auto& j) { j["split_sha256"] = std::string(64, '0'); })
            .starts_with("u/update.json was written for a split.json of SHA-256 " + std::string(64, '0') +
                         ", but the one beside it has "));
  const Setting setting;
  for (const auto* file : {"split.json", "update.json", "update.safetensors"}) {
    const auto text = support::read_file(setting.folder / ("u/" + std::string(file)));
    fs::remove(setting.folder / ("u/" + std::string(file)));
    CHECK(setting.refusal<ArgumentError>() ==
          fmt::format("cannot read u/{}: No such file or directory", file));
    support::write_file(setting.folder / ("u/" + std::string(file)), "[");
    CHECK_FALSE(setting.refusal().empty());
    support::write_file(setting.folder / ("u/" + std::string(file)), text);
  }
  CHECK(support::message_of<ArgumentError>([&] { UpdateFolder(setting.folder / "no"); }) ==
        (setting.folder / "no").string() + " is no folder, but an update is a folder");
}

TEST_CASE("write_update: what cannot be written leaves the disk as it was") {
  const Setting setting;
  const auto before = tiny::contents(setting.folder.path());
  const auto& layout = setting.owner.layout();
  auto delta = setting.delta;
  const auto write = [&](const UpdateRecord& record, const char* out = "v") {
    write_update(setting.folder / out, setting.folder / "o", layout, delta, record);
  };
  CHECK(support::message_of<ArgumentError>([&] {
          write(setting.record, "u");
        }).ends_with("exists and is not empty, and replacing it was not asked for"));
  auto record = setting.record;
  record.samples = 0;
  CHECK(support::message_of<ArgumentError>([&] { write(record); }) ==
        "the update was trained on 0 samples, but its weight must be positive");
  record = setting.record;
  record.loss = NAN;
  CHECK(support::message_of<NumericError>([&] { write(record); }) ==
        "the update's loss is nan, which is not finite");
  delta[static_cast<std::size_t>(layout.find("transformer.h.0.ln_2.bias")->offset)] = NAN;
  CHECK(support::message_of<NumericError>([&] { write(setting.record); }) ==
        "the update of tensor transformer.h.0.ln_2.bias holds a number that is not finite");
  delta.pop_back();
  CHECK(support::message_of<ArgumentError>([&] { write(setting.record); })
            .starts_with(
                fmt::format("the update has {} numbers, but {} are trained", delta.size(), layout.size())));
  CHECK(tiny::contents(setting.folder.path()) == before);
}

TEST_CASE("check_update_fits: another model, configuration or weight is named") {
  const Setting setting;
  const auto split = UpdateFolder(setting.folder / "u").split();
  const auto says = [&](const tiny::Folder& owners, const SplitSpecification& given) {
    const support::TemporaryFolder other;
    owners.write(other / "w");
    const auto path = other.path().string() + "/";
    auto text = support::message_of<ProtocolError>([&] { check_update_fits<Gpt2>(other / "w", given); });
    return text.erase(text.find(path), path.size());
  };
  const std::string start = "the update was not made for the model w: ";
  auto opt = split;
  opt.model_type = "opt";
  CHECK(says(tiny::Folder(tiny::config(6)), opt) ==
        start + "the model type is 'opt', but 'gpt2' was expected");
  CHECK(says(tiny::Folder(tiny::config(7)), split) ==
        start + "'n_layer' of the configuration is 6, but 7 was expected");
  tiny::Folder changed(tiny::config(6));
  changed["transformer.h.5.ln_2.bias"][1] += 1;
  CHECK(says(changed, split).starts_with(start + "tensor 'transformer.h.5.ln_2.bias' has SHA-256 "));
  tiny::Folder middle(tiny::config(6));  // the middle is the owner's own affair
  middle["transformer.h.2.ln_2.bias"][1] += 1;
  middle.without_prefix().write(setting.folder / "w");
  CHECK_NOTHROW(check_update_fits<Gpt2>(setting.folder / "w", split));
}

}  // namespace returned_update_test
