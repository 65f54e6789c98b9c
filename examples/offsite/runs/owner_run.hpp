#pragma once
#include <string>
#include <vector>

#include "offsite/aggregation/any_aggregation.hpp"
#include "offsite/federation/owner_options.hpp"
#include "offsite/federation/sqlite_journal.hpp"
#include "offsite/runs/sides.hpp"

namespace program {

/// What `serve` and `simulate` have in common: a run that lives in a journal's folder.
struct OwnerRun {
  offsite::federation::SqliteJournal journal;
  std::vector<offsite::federation::Record> records;
  offsite::federation::RunDescription description;
  offsite::federation::OwnerOptions options;
  offsite::AnyAggregation aggregation;
};

/// Opens the journal, and begins a run in it or goes on with the one it holds.
/// \param name  of a new run; empty = drawn
/// \throws offsite::ArgumentError if the journal's run was begun with other settings, which are named.
[[nodiscard]] OwnerRun open_owner_run(const Path& folder, const OwnerSide& side, const RoundArguments& rounds,
                                      const std::string& name, std::uint64_t seed);

/// The library's options of an owner, completed by what the command line says in other units.
/// \throws offsite::ArgumentError for what does not fit the aggregation.
[[nodiscard]] offsite::federation::OwnerOptions owner_options(const RoundArguments& rounds,
                                                              const offsite::AnyAggregation& aggregation,
                                                              std::uint64_t seed);

}  // namespace program
