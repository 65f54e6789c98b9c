#include "offsite/command_line.hpp"

#include <memory>

#include "offsite/core/error.hpp"
#include "offsite/runs/arguments.hpp"
#include "offsite/session.hpp"

// The subcommands of federations: serve, join, simulate, runs.

namespace program {

namespace {

/// Takes away what training alone has.
void remove_options(CLI::App& app, std::initializer_list<const char*> names) {
  for (const auto* name : names) app.remove_option(app.get_option(name));
}

void add_rounds(CLI::App& app, RoundArguments& rounds) {
  auto& o = rounds.options;
  const auto number = [&](const char* name, auto& value, const char* help) {
    app.add_option(name, value, help)->type_name("N")->capture_default_str();
  };
  const auto seconds = [&](const char* name, double& value, const char* help) {
    app.add_option(name, value, help)->type_name("SECONDS")->capture_default_str();
  };
  number("--rounds", o.rounds,
         "rounds; epochs, steps and their data's order are a round's, the schedule all rounds'");
  number("--fraction", o.fraction, "of the clients at hand, which a round asks; above 0, at most 1");
  app.add_option(
         "--aggregate", rounds.aggregate,
         "how updates become one: fedavg, fedprox, fedavgm, fedadam, fedyogi, fedadagrad, trimmed_mean, "
         "coordinate_median, geometric_median, krum, multi_krum or bulyan, with settings such as "
         "fedadam:0.01 or norm:10+trimmed_mean:0.1")
      ->type_name("POLICY")
      ->capture_default_str();
  app.add_flag("--keep-optimizer", rounds.keep_optimizer,
               "clients' AdamW goes on where their last round left it; without it each round starts it anew");
  number("--min-clients", o.min_clients, "a round begins, and its updates are used, with no fewer");
  number("--max-samples", o.max_samples, "a client may claim");
  number("--max-norm", o.max_norm, "an update's largest norm");
  number("--max-norm-ratio", o.max_norm_ratio, "an update's largest norm, in times the usual one");
  seconds("--deadline", rounds.deadline, "a round lasts at most; who is later is left out of it");
  number("--max-extensions", o.max_extensions, "deadlines more for a round that has too few updates");
}

/// What owners of both kinds share. \param data  may be left without rows of its own
void add_owner(CLI::App& app, Path& model, SplitArguments& split, DataArguments& data,
               TrainArguments& training, RoundArguments& rounds) {
  app.add_option("--model", model, "model folder")->type_name("DIR")->required();
  add_split(app, split);
  add_data(app, data, true);
  add_training(app, training);
  remove_options(app, {"--eval-steps", "--save-steps", "--keep-best", "--early-stopping-patience", "--metric",
                       "--logging-steps"});
  app.get_option("--eval-data")
      ->required()
      ->description("held-out data of the task: what rounds are scored by");
  app.get_option("--log")->description("write what came of each round to this file, a JSON line each");
  add_rounds(app, rounds);
}

void add_network(CLI::App& app, NetworkArguments& network, const char* address, const char* help) {
  auto* connection = app.add_option(address, network.address, help)->type_name("HOST:PORT");
  app.add_option("--tls", network.tls, "folder of this end's certificate, as offsite certificates makes it")
      ->type_name("DIR")
      ->needs(connection);
  app.add_flag("--insecure", network.insecure, "no encryption and no proof of names; on one machine only")
      ->needs(connection);
  app.add_option("--directory", network.directory,
                 "a folder that both sides see, or whose files people carry: messages are files in it")
      ->type_name("DIR")
      ->excludes(connection);
}

}  // namespace

void add_serve_command(CLI::App& program) {
  auto* app = program.add_subcommand(
      "serve", "Owner: lead rounds of training with clients elsewhere, and write the model they made better");
  auto command = std::make_shared<ServeCommand>();
  auto& o = command->rounds.options;
  add_owner(*app, command->model, command->split, command->data, command->training, command->rounds);
  remove_options(*app, {"--data", "--skip", "--limit"});  // clients have the data
  add_network(*app, command->network, "--listen",
              "listen there for clients, with --tls; port 0 is any free one");
  app->add_option("--data-dir", command->journal,
                  "folder of the run's journal; killed and started again with it, the run goes on")
      ->type_name("DIR")
      ->required();
  app->add_option("--run", command->run, "the run's name; without it one is drawn")->type_name("NAME");
  app->add_option("--clients", o.names, "names that may take part; without it all that reach this owner")
      ->type_name("NAME,...")
      ->delimiter(',');
  app->add_option("--max-clients", o.max_clients, "that may take part in the run")
      ->type_name("N")
      ->capture_default_str();
  app->add_option("--start-clients", o.start_clients,
                  "open no round after a start before so many came; 0 = --min-clients")
      ->type_name("N");
  app->add_option("--patience", command->rounds.patience, "for clients to come before a round")
      ->type_name("SECONDS")
      ->capture_default_str();
  app->add_option("--grace", command->rounds.grace, "for clients to fetch the final adapters")
      ->type_name("SECONDS")
      ->capture_default_str();
  app->add_option("--share", command->share,
                  "shared parameters that go along, by their full names; without it all of them; none = none")
      ->type_name("NAME,...")
      ->delimiter(',');
  app->add_option("--max-verbatim", command->max_verbatim,
                  "refuse an offer that holds more than this share of the parameters as they are")
      ->type_name("SHARE");
  add_out(*app, command->out, "model folder to write at the end", false);
  add_common(*app, command->common);
  app->callback([command] {
    Session session("serve", command->common);
    check_out(command->out);
    run_serve(*command, session);
    session.finish();
  });
}

void add_join_command(CLI::App& program) {
  auto* app =
      program.add_subcommand("join", "Client: take part in an owner's rounds with data that stays here");
  auto command = std::make_shared<JoinCommand>();
  app->add_option("--name", command->name, "what the owner knows this client by; a certificate says it too")
      ->type_name("NAME");
  add_network(*app, command->network, "--owner", "where the owner listens, with --tls");
  app->add_option("--data-dir", command->journal,
                  "folder of this client's journal and cache; killed and started again with it, it goes on")
      ->type_name("DIR")
      ->required();
  add_data(*app, command->data, true);
  app->add_option(
         "--expect", command->expect,
         "what the owner's split must be: a JSON file with any fields of split.json, or an offer folder")
      ->type_name("FILE");
  app->add_option("--shared-from", command->shared_from,
                  "folder with the shared parameters that the offer leaves out")
      ->type_name("DIR");
  app->add_option("--patience", command->patience, "with an owner that says nothing")
      ->type_name("SECONDS")
      ->capture_default_str();
  app->add_option(
         "--save-steps", command->save_steps,
         "steps between checkpoints in --data-dir, from which a killed client goes on within its round; "
         "0 = at each epoch's end")
      ->type_name("N")
      ->capture_default_str();
  app->add_option("--out", command->out, "write the final adapters to this safetensors file")
      ->type_name("FILE");
  add_common(*app, command->common);
  app->callback([command] {
    Session session("join", command->common);
    run_join(*command, session);
    session.finish();
  });
}

void add_simulate_command(CLI::App& program) {
  auto* app = program.add_subcommand(
      "simulate", "Owner and many clients in one process, to try a federation out before there is one");
  auto command = std::make_shared<SimulateCommand>();
  add_owner(*app, command->model, command->split, command->data, command->training, command->rounds);
  app->get_option("--data")->description(
      "the data that is split among the clients; a folder of one file a client with --split-data by-file");
  app->add_option("--num-clients,--clients", command->clients, "how many; with by-file as many as files")
      ->type_name("N");
  app->add_option(
         "--split-data", command->split_data,
         "iid; dirichlet:ALPHA, by the right answers' places where the task has choices, else by size; or "
         "by-file")
      ->type_name("HOW")
      ->capture_default_str();
  app->add_option(
         "--data-dir", command->journal,
         "folder of the run's journal; killed and started again with it, the run goes on. Without it the "
         "journal is gone at the end")
      ->type_name("DIR");
  add_out(*app, command->out, "model folder to write at the end", false);
  app->get_option("--out")->required(false);
  add_common(*app, command->common);
  app->callback([command] {
    Session session("simulate", command->common);
    if (!command->out.out.empty()) check_out(command->out);
    run_simulate(*command, session);
    session.finish();
  });
}

void add_runs_command(CLI::App& program) {
  auto* app = program.add_subcommand("runs", "Rounds, clients and scores of the runs in a journal's folder");
  auto command = std::make_shared<RunsCommand>();
  app->add_option("folder", command->folder, "a --data-dir of serve or simulate, or a folder of such")
      ->type_name("DIR")
      ->required();
  add_common(*app, command->common);
  app->callback([command] {
    Session session("runs", command->common);
    run_runs(*command, session);
    session.finish();
  });
}

}  // namespace program
