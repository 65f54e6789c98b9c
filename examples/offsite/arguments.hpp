#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "offsite/data/scan_rows.hpp"
#include "offsite/trainer/training_options.hpp"

// What each subcommand was told: plain values, filled in by the parser, checked by whoever uses them.

namespace program {

using Path = std::filesystem::path;

/// What every subcommand takes.
struct CommonArguments {
  Path json;  ///< where the machine-readable results go; empty = nowhere
  std::uint64_t seed = 42;
  int threads = 0;  ///< 0 = as many as LibTorch takes by itself
  std::string device = "auto";
  std::string dtype = "auto";
  bool quiet = false;
};

/// Which rows of which task.
struct DataArguments {
  std::string task;
  Path data;
  std::optional<std::string> prompt_template, completion_template;
  std::string bos = "auto";
  std::int64_t max_length = 0;  ///< 0 = the model's context
  std::int64_t skip = 0;
  std::int64_t limit = 0;  ///< 0 = all
  std::int64_t workers = 0;

  [[nodiscard]] offsite::RowRange range() const {
    return {skip, limit > 0 ? limit : offsite::RowRange::kAll};
  }
};

/// What trains in the blocks that do.
struct PeftArguments {
  std::string policy = "whole_blocks";  ///< as offsite::PlacedAdapters reads it
  std::optional<std::int64_t> rank;     ///< these instead of LoRA's own
  std::optional<double> alpha, dropout;
  std::vector<std::string> targets;
  bool rslora = false, dora = false;
  bool emulator = false;  ///< emulator blocks train as the bottom's do
};

/// How a model is cut.
struct SplitArguments {
  std::int64_t bottom = 2, top = 2;
  std::int64_t emulator = 8;
  std::string adapter_blocks;  ///< "0,3-5": instead of bottom and top
  std::string drop = "uniform";
  std::string keep;  ///< "6,9": numbers of the full model, instead of a drop rule
  PeftArguments peft;
};

struct OutArguments {
  Path out;
  bool force = false;
  bool resume = false;
  bool dry_run = false;
};

/// How a model trains, beside the library's own options.
struct TrainArguments {
  offsite::TrainingOptions options;
  std::string schedule = "linear";
  std::string metric = "loss";
  std::string dropout = "0";
  bool no_shuffle = false;
  Path eval_data;
  std::int64_t eval_limit = 0;
  bool keep_best = false;
  Path prefix_folder;  ///< where rows below the first trained block are kept; empty = in memory
  Path log;
};

struct SplitCommand {
  CommonArguments common;
  Path model;
  SplitArguments split;
  OutArguments out;
  std::vector<std::string> share;  ///< which shared parameters go along; empty = all
  std::optional<double> max_verbatim;
  std::optional<double> max_emulator_score;
  DataArguments data;  ///< for the emulator's score
};

struct InspectCommand {
  CommonArguments common;
  Path folder;
};

struct TrainCommand {
  CommonArguments common;
  Path offer;
  Path shared_from;  ///< a folder that holds shared parameters which the offer leaves out
  DataArguments data;
  TrainArguments training;
  OutArguments out;
};

struct PlugInCommand {
  CommonArguments common;
  Path model;
  std::vector<Path> updates;
  std::string aggregate = "fedavg";
  std::string as = "merged";  ///< or "peft": a folder of modules to put on the model
  OutArguments out;
};

struct EvaluateCommand {
  CommonArguments common;
  Path model, offer, update, shared_from;
  Path peft_folder;  ///< modules to put on the model; empty = none
  DataArguments data;
  std::int64_t batch_tokens = 4096;
  Path predictions;  ///< JSON lines, one a question; empty = nowhere
};

struct CompareCommand {
  CommonArguments common;
  Path model, peft_folder;
  SplitArguments split;
  DataArguments data;
  TrainArguments training;
  double full_learning_rate = 2e-5;
  bool skip_full = false;  ///< leave out full fine-tuning
};

struct ScoreCommand {
  CommonArguments common;
  Path model, peft_folder, text;
};

struct GenerateCommand {
  CommonArguments common;
  Path model, peft_folder;
  std::string prompt;
  std::int64_t max_new_tokens = 64;
};

struct TokenizeCommand {
  CommonArguments common;
  Path model, text;
  DataArguments data;
};

}  // namespace program
