// What federations' subcommands do where SQLite was missing when the program was built.
#include "offsite/core/error.hpp"
#include "offsite/runs/arguments.hpp"
#include "offsite/session.hpp"

namespace program {

namespace {
[[noreturn]] void refuse() {
  throw offsite::Error(
      "this program was built without SQLite, in which a run's journal is kept: install libsqlite3-dev and "
      "build it again");
}
}  // namespace

void run_serve(ServeCommand, Session&) { refuse(); }
void run_join(const JoinCommand&, Session&) { refuse(); }
void run_simulate(SimulateCommand, Session&) { refuse(); }
void run_runs(const RunsCommand&, Session&) { refuse(); }

}  // namespace program
