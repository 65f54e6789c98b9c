#pragma once
#include <CLI/CLI.hpp>

#include "offsite/arguments.hpp"

// Options that several subcommands have, and the subcommands themselves.

namespace program {

/// Where results and remarks go.
void add_reporting(CLI::App& app, CommonArguments& common);
/// What subcommands have that compute, `add_reporting`'s included.
void add_common(CLI::App& app, CommonArguments& common);
void add_data(CLI::App& app, DataArguments& data, bool required);
void add_peft_folder(CLI::App& app, Path& folder);
void add_split(CLI::App& app, SplitArguments& split);
void add_training(CLI::App& app, TrainArguments& training);
/// What a single client may trade: memory and disk for time.
void add_memory(CLI::App& app, TrainArguments& training);
void add_out(CLI::App& app, OutArguments& out, const char* what, bool can_resume);

/// Each adds its subcommand and what runs when it is chosen.
void add_split_command(CLI::App& program);
void add_inspect_command(CLI::App& program);
void add_train_command(CLI::App& program);
void add_plug_in_command(CLI::App& program);
void add_evaluate_command(CLI::App& program);
void add_compare_command(CLI::App& program);
void add_score_command(CLI::App& program);
void add_generate_command(CLI::App& program);
void add_tokenize_command(CLI::App& program);
void add_certificates_command(CLI::App& program);
void add_serve_command(CLI::App& program);
void add_join_command(CLI::App& program);
void add_simulate_command(CLI::App& program);
void add_runs_command(CLI::App& program);

/// Refuses an existing `--out` unless it is empty, or may be replaced or gone on with.
/// \throws offsite::ArgumentError
void check_out(const OutArguments& out);

}  // namespace program
