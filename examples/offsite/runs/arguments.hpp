#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "offsite/arguments.hpp"
#include "offsite/federation/owner_options.hpp"

// What the subcommands of a federation were told: plain values, as in offsite/arguments.hpp.

namespace program {

/// How many rounds there are, who takes part in them, and what becomes of their updates.
struct RoundArguments {
  offsite::federation::OwnerOptions options;  ///< its times are filled in from the seconds below
  double deadline = 3600, patience = 86'400, grace = 600;
  std::string aggregate = "fedavg";
  bool keep_optimizer = false;
};

/// How the two sides reach each other.
struct NetworkArguments {
  Path directory;       ///< messages are files in it
  std::string address;  ///< or a connection: where the owner listens, HOST:PORT
  Path tls;             ///< folder of this end's certificate
  bool insecure = false;
};

struct ServeCommand {
  CommonArguments common;
  Path model;
  SplitArguments split;
  std::vector<std::string> share;
  std::optional<double> max_verbatim;
  DataArguments data;  ///< how held-out data is read; which is in `training`
  TrainArguments training;
  RoundArguments rounds;
  NetworkArguments network;
  Path journal;
  std::string run;  ///< its name; empty = drawn
  OutArguments out;
};

struct JoinCommand {
  CommonArguments common;
  std::string name;
  NetworkArguments network;
  Path journal;
  Path expect;  ///< `split.json`, a part of one, or an offer that holds one
  Path shared_from;
  DataArguments data;
  Path out;                     ///< for the final adapters
  std::int64_t save_steps = 0;  ///< between checkpoints within a round; 0 = at each epoch's end
  double patience = 600;
};

struct SimulateCommand {
  CommonArguments common;
  Path model;
  SplitArguments split;
  DataArguments data;  ///< a file that is split among the clients, or a folder of one file each
  TrainArguments training;
  RoundArguments rounds;
  std::int64_t clients = 0;
  std::string split_data = "iid";
  Path journal;
  OutArguments out;
};

struct RunsCommand {
  CommonArguments common;
  Path folder;
};

// What each does; compiled apart from the command line.
class Session;
void run_serve(ServeCommand command, Session& session);
void run_join(const JoinCommand& command, Session& session);
void run_simulate(SimulateCommand command, Session& session);
void run_runs(const RunsCommand& command, Session& session);

}  // namespace program
