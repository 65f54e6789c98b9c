#include "offsite/rounds.hpp"

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "offsite/federation/memory_journal.hpp"

#include "support/test.hpp"
#include "support/tiny_gpt2.hpp"

namespace rounds_test {

using namespace offsite;
namespace fs = std::filesystem;

namespace {

const SplitPlan kPlan{6, {0, 5}, {1, 4}};
/// Short, and in the vocabulary of the tiny model.
const auto kSamples = [] {
  std::vector<Sample> samples;
  for (std::int32_t k = 0; k < 8; ++k)
    samples.push_back({{k % 11, (3 * k) % 11, (k + 5) % 11, 1, (k + 1) % 11, 10}, 3 + k % 2, k});
  return samples;
}();

/// An offer of a model of six blocks, in a journal as an owner has it.
struct Offered {
  support::TemporaryFolder folder;
  fs::path source = tiny::Folder(tiny::config(6)).write(folder / "m");
  Gpt2 full = load_model<Gpt2>(source);
  PreparedOffer<Gpt2> prepared =
      prepare_offer(full, Offer<Gpt2>{kPlan, BlockAccess<Gpt2>::select(full, kPlan.kept())}, source);
  federation::MemoryJournal journal;
  Json split = prepared.split.to_json();
  std::vector<federation::OfferedBlob> offer =
      put_offer(prepared, source, [&](std::span<const std::byte> bytes) { return journal.put(bytes); });

  [[nodiscard]] ReceivedOffer<Gpt2> read() const {
    return read_offer_blobs<Gpt2>(
        split, offer, [&](std::string_view sha256) { return journal.view(sha256); }, folder / "tokenizer");
  }
  [[nodiscard]] Client<Gpt2, PlacedAdapters> client() const {
    auto received = read();
    return Client<Gpt2, PlacedAdapters>(std::move(received.offer), at::kFloat, received.adapters);
  }
  [[nodiscard]] std::string refusal() const {
    return support::message_of<ProtocolError>([&] { (void)read(); });
  }
};

std::span<const float> numbers_of(const Eigen::VectorXf& values) {
  return {values.data(), static_cast<std::size_t>(values.size())};
}
Eigen::VectorXf values_of(const Client<Gpt2, PlacedAdapters>& client) {
  const auto& values = client.parameters().values();
  return Eigen::Map<const Eigen::VectorXf>(values.const_data_ptr<float>(), values.numel());
}

RoundTraining training(std::int64_t rounds, bool keep_optimizer = false) {
  RoundTraining result;
  result.options = {.learning_rate = 1e-2, .num_epochs = 1, .batch_size = 4};
  result.rounds = rounds;
  result.keep_optimizer = keep_optimizer;
  return result;
}

}  // namespace

TEST_CASE("RoundTraining: what is written is read; what is wrong is refused in one sentence") {
  auto written = training(7, true);
  written.options.schedule = Schedule::kCosine;
  written.options.shuffle = false;
  written.options.seed = std::numeric_limits<std::uint64_t>::max();
  const auto json = written.to_json();
  CHECK(RoundTraining::from_json(json, "it").to_json() == json);
  const auto refusal = [&](const char* field, const Json& value) {
    auto wrong = json;
    wrong[field] = value;
    return support::message_of<ProtocolError>([&] { (void)RoundTraining::from_json(wrong, "it"); });
  };
  CHECK(refusal("batch_size", 0) ==
        "'batch_size' of it is 0, but it must be an integer from 1 to 1000000000");
  CHECK(
      refusal("schedule", "steep") ==
      "it cannot be used: no schedule is called \"steep\"; there are constant, constant_with_warmup, linear, "
      "cosine, polynomial");
  CHECK(refusal("learning_rate", -1).starts_with("it cannot be used: learning_rate is -1"));
  CHECK(refusal("max_steps", 1e300).starts_with("'max_steps' of it is"));
  CHECK(refusal("rounds", 0).starts_with("'rounds' of it is 0"));
  CHECK(refusal("run", "rm").starts_with("it holds the field 'run', which"));
}

TEST_CASE("RoundTraining: the first round is training without rounds; another has an order of its own") {
  const auto plain = training(1).options;
  CHECK(training(3).of_round(1).seed == plain.seed);
  CHECK(training(3).of_round(2).seed != plain.seed);
  CHECK(training(3).of_round(2).seed != training(3).of_round(3).seed);
  CHECK_THROWS_AS((void)training(3).of_round(4), ArgumentError);
}

TEST_CASE("train_round: the schedule runs over all rounds, the warm-up too") {
  const Offered offered;
  auto client = offered.client();
  const auto start = trained_file(client.parameters().layout(), numbers_of(values_of(client)));
  auto how = training(3);
  how.options.warmup_steps = 3;
  std::vector<double> rates;
  for (std::int64_t round = 1; round <= 3; ++round)
    (void)train_round(client, round, start, how, kSamples, "",
                      {.observers = {[&](const TrainingEvent& event) {
                         if (const auto* step = std::get_if<StepEvent>(&event))
                           rates.push_back(step->learning_rate);
                       }}});
  REQUIRE(rates.size() == 6);
  for (std::int64_t step = 0; step < 6; ++step)
    CHECK(rates[static_cast<std::size_t>(step)] == scheduled_rate(Schedule::kLinear, 1e-2, step, 3, 6));
}

TEST_CASE("train_round: a client made anew gives the same bits, with and without the optimiser's state") {
  const Offered offered;
  for (const bool keep : {false, true}) {
    CAPTURE(keep);
    const auto how = training(3, keep);
    auto one = offered.client();
    auto adapters = trained_file(one.parameters().layout(), numbers_of(values_of(one)));
    std::vector<std::vector<std::byte>> updates;
    for (std::int64_t round = 1; round <= 3; ++round) {
      const auto before = adapters;
      updates.push_back(train_round(one, round, adapters, how, kSamples, offered.folder / "one").update);
      adapters = trained_file(one.parameters().layout(), numbers_of(values_of(one)));
      auto other =
          offered.client();  // killed and started again in each round, sometimes after it had trained
      for (int time = 0; time < (round == 2 ? 2 : 1); ++time)
        CHECK((train_round(other, round, before, how, kSamples, offered.folder / "other").update ==
               updates.back()));
    }
    CHECK(fs::exists(offered.folder / "one") == keep);
    if (!keep) continue;
    CHECK_FALSE(fs::exists(offered.folder / "one/optimizer-1.safetensors"));
    CHECK(fs::exists(offered.folder / "one/optimizer-2.safetensors"));
    // AdamW that goes on takes other steps than one that starts anew.
    auto fresh = offered.client();
    const auto start = trained_file(fresh.parameters().layout(), numbers_of(values_of(fresh)));
    const auto anew =
        train_round(fresh, 4, start, training(4, true), kSamples, offered.folder / "fresh").update;
    CHECK((train_round(fresh, 4, start, training(4, true), kSamples, offered.folder / "one").update != anew));
  }
}

TEST_CASE("train_round: one round is the file way's update") {
  const Offered offered;
  auto client = offered.client(), plain = offered.client();
  const auto start = trained_file(client.parameters().layout(), numbers_of(values_of(client)));
  const auto result = train_round(client, 1, start, training(1), kSamples, "");
  (void)plain.train(kSamples, training(1).options);
  CHECK(read_trained_file(result.update, plain.parameters().layout(), "it") == plain.update(1).delta);
  CHECK(result.summary.samples == 8);
}

TEST_CASE("trained files: exactly the trained tensors, finite") {
  const Offered offered;
  const auto client = offered.client();
  const auto& layout = client.parameters().layout();
  auto values = values_of(client);
  const auto refusal = [&](const std::vector<std::byte>& file) {
    return support::message_of<ProtocolError>([&] { (void)read_trained_file(file, layout, "it"); });
  };
  CHECK(read_trained_file(trained_file(layout, numbers_of(values)), layout, "it") == values);
  values[3] = std::numeric_limits<float>::infinity();
  CHECK(refusal(trained_file(layout, numbers_of(values))) == "it holds a number that is not finite");
  ParameterLayout other;
  other.add("x", {2}, true);
  const std::vector<float> two(2);
  CHECK(refusal(trained_file(other, two)) == "it holds 1 tensors, but 24 are trained");
  CHECK(refusal({}).starts_with("it is not a valid safetensors file"));
  CHECK_THROWS_AS((void)trained_file(layout, two), ArgumentError);
}

TEST_CASE("offers as blobs: what is read is what was put; hashes name the bytes") {
  Offered offered;
  const auto received = offered.read();
  CHECK(received.offer.plan == kPlan);
  CHECK(received.offer.model.blocks.size() == 4);
  CHECK(tokenizer_sha256(received.tokenizer) == offered.prepared.split.tokenizer_sha256);
  CHECK(offered.offer.size() == offered.prepared.split.tensors.size() + 2);
}

TEST_CASE("offers as blobs: whatever does not fit is refused in one sentence") {
  const auto first = [](const Offered& offered) { return offered.prepared.split.tensors.begin(); };
  {
    Offered offered;
    const auto name = first(offered)->first;
    std::erase_if(offered.offer, [&](const auto& part) { return part.name == name; });
    CHECK(offered.refusal() == "the offer lacks the tensor '" + name + "'");
  }
  {
    Offered offered;
    const std::vector<std::byte> other(4);
    offered.offer[0].blob = offered.journal.put(other);
    CHECK(offered.refusal().find("but the split says") != std::string::npos);
  }
  {
    Offered offered;
    offered.offer.push_back(offered.offer[0]);
    CHECK(offered.refusal().ends_with("twice"));
  }
  {
    Offered offered;  // bytes that have the hash, but are not as many as the shape takes
    const std::vector<std::byte> other(4);
    auto& part = offered.offer[0];
    part.blob = offered.journal.put(other);
    offered.split["tensors"][part.name]["sha256"] = part.blob.sha256;
    CHECK(offered.refusal().find("has 4 bytes, which its shape") != std::string::npos);
  }
  {
    Offered offered;
    for (auto& part : offered.offer)
      if (part.name.starts_with("files/")) part.blob = offered.offer[0].blob;
    CHECK(offered.refusal().starts_with("the offer's tokenizer has the SHA-256 "));
  }
  {
    Offered offered;
    offered.split["model_type"] = "llama";
    CHECK(offered.refusal() == "the owner's split is of model type 'llama', but this reads 'gpt2'");
  }
  {
    Offered offered;
    offered.split["adapter_policy"] = "magic";
    CHECK(offered.refusal().starts_with("the owner's split names no adapter policy of this library"));
  }
}

}  // namespace rounds_test
