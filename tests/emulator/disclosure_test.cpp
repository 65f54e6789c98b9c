#include "offsite/emulator/disclosure_json.hpp"

#include <vector>

#include "offsite/emulator/split_plan.hpp"
#include "offsite/emulator/uniform_drop.hpp"
#include "offsite/io/json.hpp"
#include "offsite/models/gpt2.hpp"
#include "support/test.hpp"

namespace disclosure_test {

using namespace offsite;

namespace {

Gpt2 tiny(bool tied = true) {
  Gpt2Config config;
  config.n_layer = 6;
  config.n_head = 2;
  config.n_embd = 8;
  config.n_positions = 16;
  config.vocab_size = 11;
  config.tie_word_embeddings = tied;
  return Gpt2::random(config, 3);
}

constexpr std::int64_t kBlock = 12 * 8 * 8 + 13 * 8, kShared = (11 + 16 + 2) * 8;

DisclosureReport report_of(Gpt2 full, const SplitPlan& plan, at::ScalarType type = at::kFloat,
                           const std::set<std::string, std::less<>>& missing = {}) {
  auto offered = BlockAccess<Gpt2>::select(full, plan.kept());
  visit_parameters<BlockAccess<Gpt2>>(
      offered, plan.kept(), [&](const std::string&, at::Tensor& tensor) { tensor = tensor.to(type); });
  return disclose<BlockAccess<Gpt2>>(full, offered, plan, missing);
}

}  // namespace

TEST_CASE("disclose: counts what leaves, tied parameters once") {
  const SplitPlan plan{6, {0, 5}, {1, 4}};
  const auto r = report_of(tiny(), plan);
  CHECK(r.blocks == 6);
  CHECK(r.bottom == std::vector<std::int64_t>{0});
  CHECK(r.emulator == std::vector<std::int64_t>{1, 4});
  CHECK(r.top == std::vector<std::int64_t>{5});
  CHECK(r.adapters.empty());
  CHECK(r.parameters == 6 * kBlock + kShared);
  CHECK(r.offer_parameters == 4 * kBlock + kShared);
  CHECK(r.verbatim_share == doctest::Approx(double(4 * kBlock + kShared) / double(6 * kBlock + kShared)));
  CHECK(r.bytes == 4 * r.offer_parameters);
  CHECK_FALSE(r.rebuildable);
  CHECK(report_of(tiny(false), plan).parameters == r.parameters + 11 * 8);
  CHECK(report_of(tiny(), {6, {1, 3, 5}, {0, 2}}).adapters == std::vector<std::int64_t>{1, 3, 5});
}

TEST_CASE("disclose: rounding to another type still counts as verbatim, another value does not") {
  const SplitPlan plan{6, {0, 5}, {1, 4}};
  const auto exact = report_of(tiny(), plan), rounded = report_of(tiny(), plan, at::kBFloat16);
  CHECK(rounded.verbatim_share == exact.verbatim_share);
  CHECK(rounded.bytes == 2 * rounded.offer_parameters);

  auto full = tiny();
  auto offered = BlockAccess<Gpt2>::select(full, plan.kept());
  offered.blocks[1].mlp.in.weight = offered.blocks[1].mlp.in.weight.add(1);
  const auto r = disclose<BlockAccess<Gpt2>>(full, offered, plan);
  CHECK(r.verbatim_share == doctest::Approx(exact.verbatim_share - 8.0 * 32 / double(r.parameters)));
  CHECK(r.offer_parameters == exact.offer_parameters);
}

TEST_CASE("disclose: an offer is rebuildable when it holds every block as it is") {
  const SplitPlan everything{6, {0, 5}, {1, 2, 3, 4}};
  CHECK(report_of(tiny(), everything).rebuildable);
  CHECK(report_of(tiny(), everything, at::kBFloat16).rebuildable);
  CHECK(report_of(tiny(), everything, at::kFloat, {"transformer.wte.weight"}).rebuildable);
  auto full = tiny();
  auto offered = BlockAccess<Gpt2>::select(full, everything.kept());
  offered.blocks[2].norm_1.bias = offered.blocks[2].norm_1.bias.add(1);
  CHECK_FALSE(disclose<BlockAccess<Gpt2>>(full, offered, everything).rebuildable);
}

TEST_CASE("disclose: what does not travel is not counted") {
  const SplitPlan plan{6, {0, 5}, {1, 4}};
  const auto all = report_of(tiny(), plan),
             some = report_of(tiny(), plan, at::kFloat, {"transformer.wte.weight"});
  CHECK(some.offer_parameters == all.offer_parameters - 11 * 8);
  CHECK(some.parameters == all.parameters);
  CHECK(some.verbatim_share < all.verbatim_share);
}

TEST_CASE("DisclosurePolicy: refuses what exceeds it, in one sentence with the numbers") {
  const auto refusal = [](const DisclosurePolicy& policy, const DisclosureReport& report) {
    return support::message_of<ArgumentError>([&] { policy.enforce(report); });
  };
  auto whole = report_of(tiny(), {6, {0, 5}, {1, 2, 3, 4}});
  CHECK(refusal({}, whole) ==
        "the offer is refused: it holds all 6 blocks as they are, so that a client could rebuild the model; "
        "keep "
        "fewer than 4 emulator blocks, or lift this with --max-verbatim 1");
  CHECK(refusal({.max_verbatim_share = 0.99}, whole) == refusal({}, whole));
  CHECK_NOTHROW(DisclosurePolicy{.max_verbatim_share = 1}.enforce(whole));

  auto some = report_of(tiny(), {6, {0, 5}, {1, 4}});
  CHECK_NOTHROW(DisclosurePolicy{}.enforce(some));
  CHECK(refusal({.max_verbatim_share = 0.5}, some) ==
        fmt::format(
            "the offer is refused: it holds {:.4f} of the model's parameters as they are, but --max-verbatim "
            "is 0.5",
            some.verbatim_share));
  CHECK(refusal({.max_verbatim_share = 1.5}, some) ==
        "max_verbatim_share is 1.5, but a share lies in 0 to 1");
  CHECK(refusal({.max_emulator_score = 0.4}, some) ==
        "max_emulator_score is 0.4, but the emulator was not scored: name a task and its data");
  some.emulator_score = 0.5;
  CHECK(refusal({.max_emulator_score = 0.4}, some) ==
        "the offer is refused: the emulator alone scores 0.5000, but --max-emulator-score is 0.4");
  CHECK_NOTHROW(DisclosurePolicy{.max_emulator_score = 0.5}.enforce(some));
}

TEST_CASE("DisclosurePolicy: FATE's own example, 11 emulator blocks of a middle of 8, never gets that far") {
  CHECK(support::message_of<ArgumentError>([] {
          (void)plan_split(12, {.bottom_blocks = 2, .top_blocks = 2, .emulator_blocks = 11}, UniformDrop{});
        }) == "emulator_blocks is 11, but 12 blocks minus 2 bottom and 2 top leave 8");
}

TEST_CASE("DisclosureReport: JSON and back, and lines for people") {
  auto report = report_of(tiny(), {6, {1, 3, 5}, {0, 2}});
  report.emulator_score = 0.25;
  const auto again = disclosure_from_json(parse_json(to_json(report).dump(), "it"));
  CHECK(to_json(again) == to_json(report));
  CHECK(again.adapters == report.adapters);
  auto json = to_json(report);
  json["bytes"] = "many";
  CHECK(support::message_of<ProtocolError>([&] { (void)disclosure_from_json(json); }) ==
        "the disclosure report lacks a field, or one is of the wrong type");
  CHECK_THROWS_AS((void)disclosure_from_json(nullptr), ProtocolError);

  const auto lines = report_of(tiny(), {6, {0, 1, 5}, {2, 4}}).lines();
  CHECK(lines.at(0) == "blocks              6, numbered 0 to 5");
  CHECK(lines.at(1) == "bottom adapter      0-1");
  CHECK(lines.at(2) == "emulator            2, 4");
  CHECK(lines.at(3) == "top adapter         5");
}

}  // namespace disclosure_test
