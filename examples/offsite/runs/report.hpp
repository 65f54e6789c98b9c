#pragma once
#include <chrono>
#include <cstdint>
#include <map>
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
  /// So many bytes of a client's update are here. Uploads that take long are told of now and then.
  void received(const std::string& client, const offsite::federation::Blob& update, std::uint64_t bytes);

  [[nodiscard]] const offsite::federation::RunSummary& summary() const { return summary_; }

 private:
  const Session& session_;
  std::shared_ptr<offsite::JsonLines> log_;
  offsite::federation::RunSummary summary_;

  struct Upload {
    std::string sha256;
    std::chrono::steady_clock::time_point begun, told;
    std::uint64_t begun_at = 0;  // bytes
  };
  std::map<std::string, Upload> uploads_;  // by client
};

}  // namespace program
