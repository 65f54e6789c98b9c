// Every adapter policy through a whole round: offer folder, training, update folder, plugging in.
#include <ATen/ops/equal.h>

#include <array>
#include <cstring>

#include "offsite/adapters/any_adapter.hpp"
#include "offsite/blocks/run_blocks.hpp"
#include "offsite/data/packed_batch.hpp"
#include "offsite/trainer/full_fine_tuning.hpp"
#include "offsite/trainer/offer_folder.hpp"
#include "offsite/trainer/offsite_tuning.hpp"
#include "offsite/trainer/returned_update.hpp"
#include "offsite/trainer/training_checkpoint.hpp"
#include "support/tensors.hpp"
#include "trainer/golden_training.hpp"

namespace round_test {

using namespace offsite;
using golden_training::cut, golden_training::model, golden_training::samples;
using support::relative_error;

namespace {

using Access = BlockAccess<Gpt2>;
using AnyTuner = OffsiteTuning<Gpt2, UniformDrop, FedAvg, PlacedAdapters>;

const std::array kPolicies{
    "whole_blocks",
    "lora rank=2 dropout=0.1",
    "lora rank=3 alpha=6 targets=c_attn,mlp.c_proj dora",
    "lora rank=2 rslora; emulator: lora rank=1",
    "bottom: lora rank=4; top: whole_blocks",
    "bottom: bitfit; top: lora rank=2 seed=7",
    "bitfit",
    "bitfit norms",
    "bottleneck width=3",
    "bottom: bottleneck width=2 dropout=0.2 targets=mlp.c_proj; top: lora rank=2",
};

const TrainingOptions kOptions{.learning_rate = 5e-3,
                               .max_steps = 5,
                               .batch_size = 4,
                               .schedule = Schedule::kConstant,
                               .logging_steps = 1,
                               .save_steps = 2};

std::filesystem::path source() { return support::golden("training/model"); }

AnyTuner tuner(const PlacedAdapters& policy) { return AnyTuner(model(), cut(), {}, {}, policy); }

at::Tensor logits(Gpt2& m) {
  const auto b = pack(samples());
  return m.logits(run_blocks<Access>(m, m.embed(b.ids, b.sequences), b.sequences, b.scored_rows));
}

/// \param own_only  without what a policy added
bool same_bits(Gpt2& a, Gpt2& b, bool own_only = false) {
  const auto tensors_of = [&](Gpt2& m) {
    std::vector<at::Tensor> tensors;
    visit_parameters<Access>(m, detail::all_blocks(Access::num_blocks(m)),
                             [&](const std::string& name, at::Tensor& t) {
                               if (!own_only || !detail::is_module_name(name))
                                 tensors.push_back(t.contiguous());
                             });
    return tensors;
  };
  const auto x = tensors_of(a), y = tensors_of(b);
  bool same = x.size() == y.size();
  for (std::size_t i = 0; same && i < x.size(); ++i)
    same = x[i].sizes() == y[i].sizes() &&
           std::memcmp(x[i].const_data_ptr(), y[i].const_data_ptr(), x[i].nbytes()) == 0;
  return same;
}

/// What an owner and clients do that share nothing but folders.
struct Round {
  support::TemporaryFolder folder;
  PlacedAdapters policy;
  Owner<Gpt2, UniformDrop, FedAvg, PlacedAdapters> owner;

  explicit Round(const PlacedAdapters& chosen)
      : policy(chosen), owner(load_model<Gpt2>(source()), cut().split(), {}, {}, chosen) {
    write_offer(owner.model(), owner.offer(), source(), folder / "o");
  }
  [[nodiscard]] Client<Gpt2, PlacedAdapters> client() const {
    auto received = read_offer<Gpt2>(folder / "o");
    return Client<Gpt2, PlacedAdapters>(received.offer, at::kFloat, received.adapters);
  }
  void write(const std::string& name, Client<Gpt2, PlacedAdapters>& client, const TrainingSummary& summary) {
    const auto update = client.update(static_cast<double>(summary.samples));
    write_update(folder / name, folder / "o", client.parameters().layout(),
                 {update.delta.data(), static_cast<std::size_t>(update.delta.size())},
                 {.samples = summary.samples, .loss = summary.loss});
  }
  /// A new owner, as the program is for `plug-in`: it knows the model and the updates.
  Gpt2 plug_in(const std::vector<std::string>& names) {
    std::vector<UpdateFolder> folders;
    for (const auto& name : names) folders.emplace_back(folder / name);
    const auto& split = folders.front().split();
    check_update_fits<Gpt2>(source(), split);
    Owner<Gpt2, UniformDrop, FedAvg, PlacedAdapters> later(load_model<Gpt2>(source()), split.plan, {},
                                                           PlacedAdapters::parse(split.adapter_policy));
    check_modules_fit(split, later.layout(), later.global());
    std::vector<ClientUpdate> updates;
    for (const auto& one : folders) updates.push_back(client_update(one, later.layout()));
    later.aggregate(updates);
    return later.plug_in().model;
  }
};

}  // namespace

TEST_CASE("adapters: untrained, a policy changes no bit; only what it names is trained") {
  Gpt2 full = model();
  const auto plain_logits = [&] {
    auto plain = tuner({});
    return logits(plain.client().model());
  }();
  for (const auto* text : kPolicies) {
    CAPTURE(text);
    auto tuned = tuner(PlacedAdapters::parse(text));
    CHECK(at::equal(logits(tuned.client().model()), plain_logits));
    auto plugged = tuned.plug_in();
    CHECK(plugged.tensors_changed == 0);
    CHECK(same_bits(plugged.model, full, /*own_only=*/true));
    CHECK(at::equal(logits(plugged.model), logits(full)));
    const auto summary = tuned.train(samples(), kOptions);
    CHECK(summary.losses.back() < summary.losses.front());
    plugged = tuned.plug_in();
    CHECK(plugged.tensors_changed > 0);
    CHECK(relative_error(logits(plugged.model), logits(full)) > 1e-4);
    Gpt2 untouched = model();
    CHECK(same_bits(full, untouched));
  }
}

TEST_CASE("adapters: through folders the result is that of one process, bit for bit, with two clients too") {
  const auto data = samples();
  const auto half = std::span(data).first(data.size() / 2), rest = std::span(data).subspan(data.size() / 2);
  for (const auto* text : kPolicies) {
    CAPTURE(text);
    const auto policy = PlacedAdapters::parse(text);
    Round round(policy);
    auto received = read_offer<Gpt2>(round.folder / "o");
    CHECK(received.adapters == policy);
    auto one = round.client(), two = round.client();
    round.write("u1", one, one.train(half, kOptions));
    round.write("u2", two, two.train(rest, kOptions));

    auto tuned = tuner(policy);
    CHECK(one.parameters().layout() == tuned.owner().layout());
    (void)tuned.train(half, kOptions);
    Gpt2 expected = tuned.plug_in().model, found = round.plug_in({"u1"});
    CHECK(same_bits(found, expected));

    auto both = tuner(policy);
    const std::array<std::span<const Sample>, 2> clients{half, rest};
    (void)both.round(clients, kOptions);
    expected = both.plug_in().model;
    found = round.plug_in({"u1", "u2"});
    CHECK(same_bits(found, expected));
  }
}

TEST_CASE("cut_offer: what an owner offers, for every policy") {
  const auto plan = plan_split(model().config.num_blocks(), cut().split(), UniformDrop{});
  for (const auto* text : kPolicies) {
    CAPTURE(text);
    const auto policy = PlacedAdapters::parse(text);
    auto offered = tuner(policy).owner().offer();
    auto made = cut_offer<Access>(model(), plan, policy);
    CHECK(made.plan == offered.plan);
    CHECK(made.adapter_policy == offered.adapter_policy);
    CHECK(same_bits(made.model, offered.model));
  }
}

TEST_CASE("adapters: a run resumed from a checkpoint goes on as if it had not stopped, bit for bit") {
  const auto data = samples();
  for (const auto* text : kPolicies) {
    CAPTURE(text);
    const auto policy = PlacedAdapters::parse(text);
    const support::TemporaryFolder folder;
    auto whole = tuner(policy);
    (void)whole.train(data, kOptions);
    int steps = 0;
    auto stopped = tuner(policy);
    auto summary = stopped.train(data, kOptions,
                                 {.checkpoints = checkpoints_in(folder / "c"), .interrupted = [&] { return ++steps == 3; }});
    CHECK(summary.interrupted);
    auto resumed = tuner(policy);
    summary = resumed.train(data, kOptions, {.checkpoints = checkpoints_in(folder / "c"), .resume = true});
    CHECK(summary.steps == kOptions.max_steps);
    CHECK(at::equal(resumed.client().parameters().values(), whole.client().parameters().values()));
  }
}

TEST_CASE("adapters: the five rows come out in their order for every policy") {
  const auto data = samples();
  const auto b = pack(data);
  const auto loss = [&](Gpt2& m) {
    return at::cross_entropy_loss(logits(m), b.targets, {}, at::Reduction::Mean).item<double>();
  };
  auto options = kOptions;
  options.max_steps = 12;
  Gpt2 full = model();
  const double zero_shot = loss(full);
  for (const auto* text : kPolicies) {
    CAPTURE(text);
    auto tuned = tuner(PlacedAdapters::parse(text));
    const double emulator = loss(tuned.client().model());
    (void)tuned.train(data, options);
    CHECK(loss(tuned.client().model()) < emulator);
    auto plugged = tuned.plug_in();
    CHECK(std::isfinite(loss(plugged.model)));
    CHECK(loss(plugged.model) != zero_shot);
  }
}

TEST_CASE("adapters: an offer made for another policy is refused in one sentence") {
  const Round round(PlacedAdapters::parse("lora rank=2"));
  const auto path = (round.folder / "o").string();
  const std::string text = "lora rank=2 alpha=16 dropout=0 targets=all-linear seed=42";
  CHECK(support::message_of<ProtocolError>([&] { (void)read_offer<Gpt2>(path, {}, WholeBlocks{}); }) ==
        "the offer " + path + " was made for the adapter policy '" + text +
            "', but this reader's is 'whole_blocks'");
  Lora same;
  same.rank = 2;
  CHECK_NOTHROW((void)read_offer<Gpt2>(path, {}, same));
  same.alpha = 4;
  CHECK_THROWS_AS((void)read_offer<Gpt2>(path, {}, same), ProtocolError);
  CHECK(support::message_of<ArgumentError>([&] { Client<Gpt2>(read_offer<Gpt2>(path).offer); }) ==
        "the offer was made for the adapter policy '" + text + "', but this client's is 'whole_blocks'");
}

TEST_CASE("adapters: a policy that split.json names but does not fit its tensors gives one sentence") {
  const auto refused = [](const char* policy) {
    const Round round(PlacedAdapters::parse("lora rank=2 targets=c_attn"));
    auto json = read_json(round.folder / "o/split.json");
    json["adapter_policy"] = policy;
    write_json(round.folder / "o/split.json", json);
    auto text = support::message_of<ProtocolError>([&] { (void)read_offer<Gpt2>(round.folder / "o"); });
    const auto path = round.folder.path().string() + "/";
    for (auto at = text.find(path); at != text.npos; at = text.find(path)) text.erase(at, path.size());
    return text;
  };
  CHECK(refused("magic") ==
        "o/split.json names no adapter policy of this library: the adapter policy is 'magic', but there are "
        "whole_blocks, lora, bottleneck and bitfit");
  CHECK(refused("lora rank=2 targets=c_proj") ==
        "o/split.json lacks the tensor 'transformer.h.0.attn.c_proj.lora_A.weight', which these blocks need");
  CHECK(
      refused("lora rank=65536 targets=c_attn") ==
      "tensor 'transformer.h.0.attn.c_attn.lora_A.weight' of o/model.safetensors has shape [2, 24], but the "
      "configuration asks for [65536, 24]");
  CHECK(refused("lora rank=2 targets=q_proj") ==
        "o/split.json names an adapter policy that does not fit: the target 'q_proj' names no linear layer "
        "of the "
        "blocks that train, such as transformer.h.0.mlp.c_proj");
  CHECK(refused("whole_blocks") ==
        "o/split.json lists the tensor 'transformer.h.0.attn.c_attn.lora_A.weight', which is no part of "
        "these blocks");
}

TEST_CASE("adapters: an update whose factors started elsewhere is refused") {
  Round round(PlacedAdapters::parse("lora rank=2 targets=c_attn"));
  auto client = round.client();
  round.write("u", client, client.train(samples(), kOptions));
  const auto split = UpdateFolder(round.folder / "u").split();
  const auto other = Owner<Gpt2, UniformDrop, FedAvg, PlacedAdapters>(
      model(), split.plan, {}, PlacedAdapters::parse("lora rank=2 targets=c_attn seed=1"));
  CHECK(
      support::message_of<ProtocolError>([&] { check_modules_fit(split, other.layout(), other.global()); }) ==
      "the update was not made for this model: 'transformer.h.0.attn.c_attn.lora_A.weight' starts otherwise "
      "than "
      "the policy 'lora rank=2 alpha=16 dropout=0 targets=c_attn seed=42' says");
}

TEST_CASE("PlacedAdapters: text and back; what people write is completed; mistakes give one sentence") {
  for (const auto* text : kPolicies) {
    const auto policy = PlacedAdapters::parse(text);
    CHECK(PlacedAdapters::parse(policy.text()) == policy);
  }
  CHECK(PlacedAdapters::parse("lora").text() == "lora rank=8 alpha=16 dropout=0 targets=all-linear seed=42");
  CHECK(PlacedAdapters::parse("top:bitfit ;bottom: whole_blocks").text() ==
        "bottom: whole_blocks; top: bitfit");
  const auto refused = [](const char* text) {
    return support::message_of<ArgumentError>([&] { (void)PlacedAdapters::parse(text); });
  };
  CHECK(refused("") == "the adapter policy is '', but there are whole_blocks, lora, bottleneck and bitfit");
  CHECK(refused("lora rank=x") == "an adapter policy's rank is 'x', which is no such number");
  CHECK(refused("lora width=3") == "the adapter policy lora has no setting 'width'");
  CHECK(refused("bitfit norms=1") == "the adapter policy bitfit has no setting 'norms'");
  CHECK(refused("lora; lora") == "the adapter policy 'lora; lora' names a place twice");
  CHECK(refused("bottom: lora") ==
        "the adapter policy 'bottom: lora' must say what trains in bottom and top, once each or for both");
  CHECK(refused("lora alpha=nan") == "LoRA's alpha is nan, but it must be positive");
}

}  // namespace round_test
