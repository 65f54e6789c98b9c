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
    samples.push_back(
        {{k % 11, (3 * k) % 11, (k + 5) % 11, 1, (k + 1) % 11, 10},
         3 + k % 2,
         k});
  return samples;
}();

/// An offer of a model of six blocks, in a journal as an owner has it.
struct Offered {
  support::TemporaryFolder folder;
  fs::path source = tiny::Folder(tiny::config(6)).write(folder / "m");
  Gpt2 full = load_model<Gpt2>(source);
  PreparedOffer<Gpt2> prepared = prepare_offer(
      full, Offer<Gpt2>{kPlan, BlockAccess<Gpt2>::select(full, kPlan.kept())},
      source);
  federation::MemoryJournal journal;
  Json split = prepared.split.to_json();
  std::vector<federation::OfferedBlob> offer =
      put_offer(prepared, source, [&](std::span<const std::byte> bytes) {
        return journal.put(bytes);
      });

  [[nodiscard]] ReceivedOffer<Gpt2> read() const {
    return read_offer_blobs<Gpt2>(
        split, offer,
        [&](std::string_view sha256) { return journal.view(sha256); },
        folder / "tokenizer");
  }
  [[nodiscard]] Client<Gpt2, PlacedAdapters> client() const {
    auto received = read();
    return Client<Gpt2, PlacedAdapters>(std::move(received.offer), at::kFloat,
                                        received.adapters);
  }
  [[nodiscard]] std::string refusal() const {
    return support::message_of<ProtocolError>([&] { (void)read(); });
  }
};

std::span<const float> numbers_of(const Eigen::VectorXf &values) {
  return {values.data(), static_cast<std::size_t>(values.size())};
}
Eigen::VectorXf values_of(const Client<Gpt2, PlacedAdapters> &client) {
  const auto &values = client.parameters().values();
  return Eigen::Map<const Eigen::VectorXf>(values.const_data_ptr<float>(),
                                           values.numel());
}

RoundTraining training(std::int64_t rounds, bool keep_optimizer = false) {
  RoundTraining result;
  result.options = {.learning_rate = 1e-2, .num_epochs = 1, .batch_size = 4};
  result.rounds = rounds;
  result.keep_optimizer = keep_optimizer;
  return result;
}

} // namespace

TEST_CASE("RoundTraining: what is written is read; what is wrong is refused in "
          "one sentence") {
  auto written = training(7, true);
  written.options.schedule = Schedule::kCosine;
  written.options.shuffle = false;
  written.options.seed = std::numeric_limits<std::uint64_t>::max();
  const auto json = written.to_json();
  CHECK(RoundTraining::from_json(json, "it").to_json() == json);
  const auto refusal = [&](const char *field, const Json &value) {
    auto wrong = json;
    wrong[field] = value;
    return support::message_of<ProtocolError>(
        [&] { (void)RoundTraining::from_json(wrong, "it"); });
  };
  CHECK(refusal("batch_size", 0) == "'batch_size' of it is 0, but it must be "
                                    "an integer from 1 to 1000000000");
  CHECK(refusal("schedule", "steep") ==
        "it cannot be used: no schedule is called \"steep\"; there are "
        "constant, constant_with_warmup, linear, "
        "cosine, polynomial");
  CHECK(refusal("learning_rate", -1)
            .starts_with("it cannot be used: learning_rate is -1"));
  CHECK(refusal("max_steps", 1e300).starts_with("'max_steps' of it is"));
  CHECK(refusal("rounds", 0).starts_with("'rounds' of it is 0"));
  CHECK(refusal("run", "rm").starts_with("it holds the field 'run', which"));
}

TEST_CASE("RoundTraining: the first round is training without rounds; another "
          "has an order of its own") {
  const auto plain = training(1).options;
  CHECK(training(3).of_round(1).seed == plain.seed);
  CHECK(training(3).of_round(2).seed != plain.seed);
  CHECK(training(3).of_round(2).seed != training(3).of_round(3).seed);
  CHECK_THROWS_AS((void)training(3).of_round(4), ArgumentError);
}

TEST_CASE("train_round: the schedule runs over all rounds, the warm-up too") {
  const Offered offered;
  auto client = offered.client();
  const auto start =
      trained_file(client.parameters().layout(), numbers_of(values_of(client)));
  auto how = training(3);
  how.options.warmup_steps = 3;
  std::vector<double> rates;
  for (std::int64_t round = 1; round <= 3; ++round)
    (void)train_round(client, round, start, how, kSamples, "",
                      {.observers = {[&](const TrainingEvent &event) {
                         if (const auto *step = std::get_if<StepEvent>(&event))
                           rates.push_back(step->learning_rate);
                       }}});
  REQUIRE(rates.size() == 6);
  for (std::int64_t step = 0; step < 6; ++step)
    CHECK(rates[static_cast<std::size_t>(step)] ==
          scheduled_rate(Schedule::kLinear, 1e-2, step, 3, 6));
}

TEST_CASE("train_round: a client made anew gives the same bits, with and "
          "without the optimiser's state") {
  const Offered offered;
  for (const bool keep : {false, true}) {
    CAPTURE(keep);
    const auto how = training(3, keep);
    auto one = offered.client();
    auto adapters =
        trained_file(one.parameters().layout(), numbers_of(values_of(one)));
    std::vector<std::vector<std::byte>> updates;
    for (std::int64_t round = 1; round <= 3; ++round) {
      const auto before = adapters;
      updates.push_back(train_round(one, round, adapters, how, kSamples,
                                    offered.folder / "one")
                            .update);
      adapters =
          trained_file(one.parameters().layout(), numbers_of(values_of(one)));
      auto other = offered.client(); // killed and started again in each round,
                                     // sometimes after it had trained
      for (int time = 0; time < (round == 2 ? 2 : 1); ++time)
        CHECK((train_round(other, round, before, how, kSamples,
                           offered.folder / "other")
                   .update == updates.back()));
    }
    CHECK(fs::exists(offered.folder / "one") == keep);
    if (!keep)
      continue;
    CHECK_FALSE(fs::exists(offered.folder / "one/optimizer-1.safetensors"));
    CHECK(fs::exists(offered.folder / "one/optimizer-2.safetensors"));
    // AdamW that goes on takes other steps than one that starts anew.
    auto fresh = offered.client();
    const auto start =
        trained_file(fresh.parameters().layout(), numbers_of(values_of(fresh)));
    const auto anew = train_round(fresh, 4, start, training(4, true), kSamples,
                                  offered.folder / "fresh")
                          .update;
    CHECK((train_round(fresh, 4, start, training(4, true), kSamples,
                       offered.folder / "one")
               .update != anew));
  }
}

namespace {

/// A client of one process after the other, each of which may be killed at a
/// step: what is kept is its folder.
struct Restarted {
  struct Killed {};

  const Offered &offered;
  RoundTraining how;
  fs::path folder = offered.folder / "client";
  Json split = offered.split;
  std::vector<std::string> said = {};

  /// \param killed_at  it dies in the step after that one; 0 = never
  std::vector<std::byte> update(const federation::Round &round,
                                const std::vector<std::byte> &adapters,
                                std::int64_t killed_at = 0,
                                std::span<const Sample> samples = kSamples) {
    auto client = offered.client();
    said.clear();
    const auto result = train_round(
        client, round.round, adapters, how, samples, folder / "optimizer",
        {.observers = {[&](const TrainingEvent &event) {
           const auto *step = std::get_if<StepEvent>(&event);
           if (step != nullptr && killed_at > 0 && step->step == killed_at + 1)
             throw Killed{};
         }},
         .checkpoints = round_checkpoints_in(
             folder / "checkpoints", round, split,
             [&](const std::string &sentence) { said.push_back(sentence); }),
         .resume = true});
    CHECK(result.summary.steps == 6);
    CHECK(result.summary.samples == std::ssize(samples));
    return result.update;
  }
};

/// Adapters of an owner: other ones than the offer's.
std::vector<std::byte> adapters_for(const Offered &offered) {
  const auto client = offered.client();
  const Eigen::VectorXf values = 0.9F * values_of(client);
  return trained_file(client.parameters().layout(), numbers_of(values));
}

RoundTraining six_steps(std::int64_t save_steps) {
  auto how = training(2, true);
  how.options.num_epochs = 3;
  how.options.save_steps = save_steps;
  how.options.proximal_mu = 0.1;
  how.options.residual_dropout = 0.1;
  return how;
}

} // namespace

TEST_CASE("round checkpoints: a client killed at any step goes on there, and "
          "returns the same bytes") {
  const Offered offered;
  const auto start = adapters_for(offered);
  const federation::Round first{.run = "r", .round = 1, .global = {}},
      second{.run = "r", .round = 2, .global = {}};
  Restarted whole{offered, six_steps(6), offered.folder / "whole"};
  const auto update = whole.update(first, start),
             next = whole.update(second, start);
  CHECK(whole.said.empty());
  CHECK((update != next));
  for (const std::int64_t save_steps :
       {1, 2, 0}) { // 0: at each epoch's end, which is two steps
    CAPTURE(save_steps);
    Restarted client{offered, six_steps(save_steps),
                     offered.folder / ("every-" + std::to_string(save_steps))};
    for (const auto *round : {&first, &second}) {
      for (const std::int64_t killed_at : {1, 2, 5}) {
        CAPTURE(killed_at);
        CHECK_THROWS_AS((void)client.update(*round, start, killed_at),
                        Restarted::Killed);
      }
      CHECK(
          (client.update(*round, start) == (round == &first ? update : next)));
      CHECK(client.said ==
            std::vector{formatted("round {}: resumed at step {}", round->round,
                                  save_steps == 1 ? 5 : 4)});
      fs::remove_all(client.folder / "checkpoints");
    }
  }
}

TEST_CASE("round checkpoints: one of anything else is passed over in one "
          "sentence, and removed") {
  const Offered offered;
  auto split = offered.split;
  const auto start = adapters_for(offered);
  const federation::Round round{
      .run = "r", .round = 2, .global = {std::string(64, 'a'), 4}};
  const auto saved = [&] {
    Restarted client{offered, six_steps(4)};
    CHECK_THROWS_AS((void)client.update(round, start, 4), Restarted::Killed);
    CHECK(client.said.size() < 2);
  };
  const auto passed_over = [&](const federation::Round &now,
                               const RoundTraining &how,
                               std::span<const Sample> samples = kSamples) {
    Restarted anew{offered, how, offered.folder / "anew"};
    const auto expected = anew.update(now, start, 0, samples);
    fs::remove_all(anew.folder);
    Restarted client{offered, how, offered.folder / "client", split};
    CHECK((client.update(now, start, 0, samples) == expected));
    CHECK_FALSE(fs::exists(client.folder / "checkpoints/step-00000004"));
    fs::remove_all(client.folder);
    REQUIRE(client.said.size() == 1);
    return client.said[0];
  };
  const auto how = six_steps(6);
  auto other = round;
  saved(), other.round = 1;
  CHECK(passed_over(other, how) ==
        "round 1 begins at its first step, not from the checkpoint in " +
            (offered.folder / "client/checkpoints").string() +
            ": its run had round = 2, this one has 1");
  saved(), other = round, other.run = "s";
  CHECK(
      passed_over(other, how).ends_with("its run had run = r, this one has s"));
  saved(), other = round, other.global.sha256[0] = 'b';
  CHECK(passed_over(other, how).find("its run had adapters = aaa") !=
        std::string::npos);
  auto changed = how;
  saved(), changed.options.batch_size = 3, changed.options.num_epochs = 2;
  CHECK(passed_over(round, changed)
            .ends_with("its run had num_epochs = 3, this one has 2"));
  saved();
  CHECK(passed_over(round, how, std::span(kSamples).first(7))
            .find("its run had data = ") != std::string::npos);
  saved(), split["format"] = 0;
  CHECK(passed_over(round, how).find("its run had offer = ") !=
        std::string::npos);
  saved(),
      support::write_file(
          offered.folder / "client/checkpoints/step-00000004/state.json", "{}");
  CHECK(passed_over(round, how)
            .ends_with("state.json is not a checkpoint's state: a JSON object "
                       "has no member 'run'"));
  split = offered.split;
  saved(),
      fs::resize_file(offered.folder /
                          "client/checkpoints/step-00000004/state.safetensors",
                      3000);
  CHECK(passed_over(round, how).find("state.safetensors") != std::string::npos);
}

TEST_CASE("train_round: one round is the file way's update") {
  const Offered offered;
  auto client = offered.client(), plain = offered.client();
  const auto start =
      trained_file(client.parameters().layout(), numbers_of(values_of(client)));
  const auto result = train_round(client, 1, start, training(1), kSamples, "");
  (void)plain.train(kSamples, training(1).options);
  CHECK(read_trained_file(result.update, plain.parameters().layout(), "it") ==
        plain.update(1).delta);
  CHECK(result.summary.samples == 8);
}

TEST_CASE("trained files: exactly the trained tensors, finite") {
  const Offered offered;
  const auto client = offered.client();
  const auto &layout = client.parameters().layout();
  auto values = values_of(client);
  const auto refusal = [&](const std::vector<std::byte> &file) {
    return support::message_of<ProtocolError>(
        [&] { (void)read_trained_file(file, layout, "it"); });
  };
  CHECK(read_trained_file(trained_file(layout, numbers_of(values)), layout,
                          "it") == values);
  values[3] = std::numeric_limits<float>::infinity();
  CHECK(refusal(trained_file(layout, numbers_of(values))) ==
        "it holds a number that is not finite");
  ParameterLayout other;
  other.add("x", {2}, true);
  const std::vector<float> two(2);
  CHECK(refusal(trained_file(other, two)) ==
        "it holds 1 tensors, but 24 are trained");
  CHECK(refusal({}).starts_with("it is not a valid safetensors file"));
  CHECK_THROWS_AS((void)trained_file(layout, two), ArgumentError);
}

TEST_CASE(
    "offers as blobs: what is read is what was put; hashes name the bytes") {
  Offered offered;
  const auto received = offered.read();
  CHECK(received.offer.plan == kPlan);
  CHECK(received.offer.model.blocks.size() == 4);
  CHECK(tokenizer_sha256(received.tokenizer) ==
        offered.prepared.split.tokenizer_sha256);
  CHECK(offered.offer.size() == offered.prepared.split.tensors.size() + 2);
}

TEST_CASE("offers as blobs: whatever does not fit is refused in one sentence") {
  const auto first = [](const Offered &offered) {
    return offered.prepared.split.tensors.begin();
  };
  {
    Offered offered;
    const auto name = first(offered)->first;
    std::erase_if(offered.offer,
                  [&](const auto &part) { return part.name == name; });
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
    Offered offered; // bytes that have the hash, but are not as many as the
                     // shape takes
    const std::vector<std::byte> other(4);
    auto &part = offered.offer[0];
    part.blob = offered.journal.put(other);
    offered.split["tensors"][part.name]["sha256"] = part.blob.sha256;
    CHECK(offered.refusal().find("has 4 bytes, which its shape") !=
          std::string::npos);
  }
  {
    Offered offered;
    for (auto &part : offered.offer)
      if (part.name.starts_with("files/"))
        part.blob = offered.offer[0].blob;
    CHECK(offered.refusal().starts_with(
        "the offer's tokenizer has the SHA-256 "));
  }
  {
    Offered offered;
    offered.split["model_type"] = "llama";
    CHECK(offered.refusal() ==
          "the owner's split is of model type 'llama', but this reads 'gpt2'");
  }
  {
    Offered offered;
    offered.split["adapter_policy"] = "magic";
    CHECK(offered.refusal().starts_with(
        "the owner's split names no adapter policy of this library"));
  }
}

} // namespace rounds_test
