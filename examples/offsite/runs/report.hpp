#pragma once
#include <memory>
#include <string>

#include "offsite/federation/run_summary.hpp"
#include "offsite/report/json_lines.hpp"
#include "offsite/report/table.hpp"
#include "offsite/session.hpp"

namespace program {

/// One row a round: who took part, and what came of it.
[[nodiscard]] offsite::Table round_table(const offsite::federation::RunSummary& run);

/// The fields of `--json` for a run.
void put_run(offsite::Json& json, const offsite::federation::RunSummary& run);

/// Tells of a run while it goes on: a line a round, and JSON lines if asked for.
class RunReport {
 public:
  /// \param log  for JSON lines, which are added to those of the run before it was cut; empty = none
  RunReport(const Session& session, const Path& log);

  /// Takes in what was recorded before.
  void resume(const std::vector<offsite::federation::Record>& records);
  void operator()(const offsite::federation::Record& record);

  [[nodiscard]] const offsite::federation::RunSummary& summary() const { return summary_; }

 private:
  const Session& session_;
  std::shared_ptr<offsite::JsonLines> log_;
  offsite::federation::RunSummary summary_;
};

}  // namespace program
