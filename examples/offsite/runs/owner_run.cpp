#include "offsite/runs/owner_run.hpp"

#include <fmt/format.h>

#include <cmath>
#include <random>
#include <utility>

#include "offsite/core/error.hpp"
#include "offsite/federation/check_update.hpp"
#include "offsite/federation/split_difference.hpp"
#include "offsite/io/json.hpp"

namespace program {

using namespace offsite;
using namespace offsite::federation;

namespace {

std::int64_t milliseconds(double seconds, const char* option) {
  require(std::isfinite(seconds) && seconds >= 0 && seconds <= 1e9,
          "{} is {} seconds, but it must be 0 to 1e9", option, seconds);
  return std::llround(seconds * 1000);
}

std::string drawn_name() {
  std::random_device device;
  return fmt::format("run-{:08x}{:08x}", device(), device());
}

/// How the clients train: as asked, with the policy's own term in their loss.
RoundTraining training_of(const OwnerSide& side, const AnyAggregation& aggregation) {
  auto training = side.training;
  if (const double mu = aggregation.proximal_mu(); mu > 0) training.options.proximal_mu = mu;
  return training;
}

/// What must not change while a run goes on: what its rounds are made of.
Json settings_of(const OwnerSide& side, const OwnerOptions& options, const AnyAggregation& aggregation,
                 const Blob& start) {
  return Json::object({{"start", start.sha256},
                       {"split", side.split},
                       {"training", training_of(side, aggregation).to_json()},
                       {"aggregate", aggregation.text()},
                       {"fraction", options.fraction},
                       {"seed", options.seed}});
}

}  // namespace

OwnerOptions owner_options(const RoundArguments& rounds, const AnyAggregation& aggregation,
                           std::uint64_t seed) {
  OwnerOptions options = rounds.options;
  options.seed = seed;
  options.deadline_ms = milliseconds(rounds.deadline, "--deadline");
  options.patience_ms = milliseconds(rounds.patience, "--patience");
  options.grace_ms = milliseconds(rounds.grace, "--grace");
  options.start_clients = std::max(options.start_clients, options.min_clients);
  options.timing.chunk_bytes = kNetworkChunk;
  options.check();
  require(options.min_clients >= aggregation.least_updates(),
          "--aggregate {} needs {} updates a round, but --min-clients is {}", rounds.aggregate,
          aggregation.least_updates(), options.min_clients);
  return options;
}

OwnerRun open_owner_run(const Path& folder, const OwnerSide& side, const RoundArguments& rounds,
                        const std::string& name, std::uint64_t seed) {
  const auto aggregation = AnyAggregation::parse(rounds.aggregate);
  const auto options = owner_options(rounds, aggregation, seed);
  OwnerRun run{SqliteJournal(folder), {}, {}, options, aggregation};
  run.records = run.journal.records();
  auto& about = run.description;
  about.run = !name.empty()         ? name
              : run.records.empty() ? drawn_name()
                                    : run.records.front().fields.at("run").text();
  about.split = side.split;
  about.training = training_of(side, aggregation).to_json();
  about.global = run.journal.put(side.start);
  about.max_update_bytes = most_update_bytes(trained_shapes(side.start));
  if (side.put_offer) about.offer = side.put_offer([&](Bytes bytes) { return run.journal.put(bytes); });

  const auto settings = settings_of(side, options, aggregation, about.global);
  const auto file = folder / "settings.json";
  if (run.records.empty()) {
    write_json(file, settings);
  } else {
    const auto difference = explain_split_difference(read_json(file), settings);
    require(difference.empty(),
            "the run in {} was begun with other settings: {} (expected: those of its start)", folder.string(),
            difference);
  }
  return run;
}

}  // namespace program
