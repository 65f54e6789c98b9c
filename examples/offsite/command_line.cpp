#include "offsite/command_line.hpp"

#include "offsite/core/error.hpp"
#include "offsite/data/any_task.hpp"
#include "offsite/session.hpp"

namespace program {

void add_reporting(CLI::App& app, CommonArguments& common) {
  app.footer("");  // the program's own help says it once
  app.add_option("--json", common.json, "write all results to this file, machine-readable")
      ->type_name("FILE");
  app.add_flag("--quiet", common.quiet, "say nothing on standard error but errors");
}

void add_common(CLI::App& app, CommonArguments& common) {
  add_reporting(app, common);
  app.add_option("--seed", common.seed, "fixes order and dropout masks")
      ->type_name("N")
      ->capture_default_str();
  app.add_option("--threads", common.threads, "threads that compute; 0 = one a processor core")
      ->type_name("N");
  app.add_option("--device", common.device, "auto or cpu")->type_name("NAME")->capture_default_str();
  app.add_option("--dtype", common.dtype,
                 "type of frozen weights and activations: auto, float32 or bfloat16; auto trains in bfloat16 "
                 "where the "
                 "processor multiplies it, and scores in the checkpoint's own type")
      ->type_name("TYPE")
      ->capture_default_str();
  // Read before the command line is parsed; here for --help alone.
  app.add_option("--config", "read options from this TOML file; those given here win")->type_name("FILE");
}

void add_data(CLI::App& app, DataArguments& data, bool required) {
  app.add_option("--task", data.task, "one of " + offsite::task_names())
      ->type_name("NAME")
      ->required(required);
  app.add_option("--data", data.data, "the task's data")->type_name("FILE")->required(required);
  app.add_option("--prompt-template", data.prompt_template,
                 "for pairs: the prompt, with {field} for a row's fields")
      ->type_name("TEXT");
  app.add_option("--completion-template", data.completion_template, "for pairs: what follows the prompt")
      ->type_name("TEXT");
  app.add_option("--bos", data.bos, "begin token before the prompt: auto (as the tokenizer says), no or yes")
      ->type_name("WHEN")
      ->capture_default_str();
  app.add_option("--max-length", data.max_length, "tokens a sample may have; 0 = the model's context")
      ->type_name("N");
  app.add_option("--skip", data.skip, "rows passed over at the beginning of the file")->type_name("N");
  app.add_option("--limit", data.limit, "rows taken after those, in file order; 0 = all")->type_name("N");
  app.add_option("--workers,--dataloader-num-workers", data.workers,
                 "threads that tokenise beside the main one")
      ->type_name("N");
}

void add_peft_folder(CLI::App& app, Path& folder) {
  app.add_option("--peft-folder", folder,
                 "put these modules on the model: a LoRA folder of PEFT, or what plug-in --as peft wrote")
      ->type_name("DIR")
      ->needs(app.get_option("--model"));
}

void add_split(CLI::App& app, SplitArguments& split) {
  auto* bottom = app.add_option("--bottom", split.bottom, "trained blocks next to the embedding")
                     ->type_name("N")
                     ->capture_default_str();
  auto* top = app.add_option("--top", split.top, "trained blocks next to the head")
                  ->type_name("N")
                  ->capture_default_str();
  app.add_option("--adapter-blocks", split.adapter_blocks, "train these blocks, such as 0,3-5, instead")
      ->type_name("BLOCKS")
      ->excludes(bottom)
      ->excludes(top);
  auto* emulator = app.add_option("--emulator", split.emulator, "blocks of the middle that a client sees")
                       ->type_name("N")
                       ->capture_default_str();
  auto* drop = app.add_option("--drop", split.drop, "the rule that chooses them: uniform")
                   ->type_name("NAME")
                   ->capture_default_str();
  app.add_option("--keep", split.keep, "keep these blocks of the middle, such as 6,9, instead")
      ->type_name("BLOCKS")
      ->excludes(emulator)
      ->excludes(drop);
  auto& peft = split.peft;
  app.add_option(
         "--peft", peft.policy,
         "what trains in the adapter blocks: whole_blocks, lora, bottleneck or bitfit, or such as "
         "'lora paper' or 'bottom: lora rank=4; top: whole_blocks'. The owner starts the modules; clients "
         "follow the offer")
      ->type_name("POLICY")
      ->capture_default_str();
  app.add_option("--rank", peft.rank, "LoRA's rank (8)")->type_name("N");
  app.add_option("--alpha", peft.alpha, "LoRA's alpha: the change is multiplied by alpha / rank (16)")
      ->type_name("N");
  app.add_option("--lora-dropout", peft.dropout, "dropout of what LoRA's factors are given (0)")
      ->type_name("RATE");
  app.add_option("--targets", peft.targets,
                 "the layers LoRA changes, by the ends of their names; without it all")
      ->type_name("NAME,...")
      ->delimiter(',');
  app.add_flag("--rslora", peft.rslora, "multiply LoRA's change by alpha / sqrt(rank)");
  app.add_flag("--dora", peft.dora, "train the norms of LoRA's rows too");
  app.add_flag(
      "--peft-emulator", peft.emulator,
      "train the emulator's blocks too, as the bottom's; plugged into the original blocks they came from");
}

void add_training(CLI::App& app, TrainArguments& training) {
  auto& o = training.options;
  const auto number = [&](const char* names, auto& value, const char* help) {
    app.add_option(names, value, help)->type_name("N")->capture_default_str();
  };
  number("--learning-rate", o.learning_rate, "peak rate of AdamW");
  number("--num-epochs,--num-train-epochs", o.num_epochs, "passes over the data; may be a fraction");
  number("--max-steps", o.max_steps, "optimiser steps instead of epochs; 0 = by epochs");
  auto* size = app.add_option("--batch-size,--per-device-train-batch-size", o.batch_size, "samples a batch")
                   ->type_name("N")
                   ->capture_default_str();
  app.add_option("--batch-tokens", o.batch_tokens, "tokens a batch instead of samples; 0 = by samples")
      ->type_name("N")
      ->excludes(size);
  number("--gradient-accumulation,--gradient-accumulation-steps", o.gradient_accumulation, "batches a step");
  app.add_option("--lr-scheduler,--lr-scheduler-type", training.schedule,
                 "constant, linear, cosine or polynomial; each after the warm-up")
      ->type_name("NAME")
      ->capture_default_str();
  number("--warmup-steps", o.warmup_steps, "steps in which the rate rises from 0 to its peak");
  number("--weight-decay", o.weight_decay, "decoupled; never on biases, norms and embeddings");
  number("--proximal-mu", o.proximal_mu,
         "FedProx: mu / 2 * squared distance from the received values joins the loss");
  number("--max-grad-norm", o.max_grad_norm, "gradients are clipped to this norm; 0 = not");
  app.add_option("--dropout", training.dropout,
                 "rate in trained blocks, or config: the checkpoint's own rates")
      ->type_name("RATE")
      ->capture_default_str();
  number("--logging-steps", o.logging_steps, "steps of which one mean loss is reported");
  app.add_option("--log", training.log, "write losses and evaluations to this file, a JSON line each")
      ->type_name("FILE");
  app.add_option("--eval-data", training.eval_data, "held-out data of the same task")->type_name("FILE");
  app.add_option("--eval-limit", training.eval_limit, "rows taken of it; 0 = all")->type_name("N");
  number("--eval-steps", o.eval_steps, "steps between evaluations; 0 = at each epoch's end");
  number("--save-steps", o.save_steps, "steps between checkpoints; 0 = at each epoch's end");
  app.add_option("--metric", training.metric,
                 "what the best evaluation is judged by: loss, accuracy or accuracy_norm")
      ->type_name("NAME")
      ->capture_default_str();
  app.add_flag("--keep-best,--load-best-model-at-end", training.keep_best,
               "end with the best evaluation's parameters");
  number("--early-stopping-patience", o.early_stopping_patience,
         "evaluations without a better one before training ends; 0 = never");
  number("--max-bad-steps", o.max_bad_steps, "steps in a row with NaN or infinity before training fails");
  app.add_flag("--no-shuffle", training.no_shuffle, "take the samples in file order");
}

void add_memory(CLI::App& app, TrainArguments& training) {
  app.add_option(
         "--recompute", training.options.recompute,
         "every so many-th block keeps its input alone and is computed again in the backward pass: less "
         "memory, more time, the same bits. 1 = all, 2 = every other; 0 = none")
      ->type_name("N")
      ->capture_default_str();
  app.add_option("--rows-per-pass", training.options.rows_per_pass,
                 "a batch of more packed rows than that adds up the gradients of several passes: less memory, the "
                 "same step; 0 = one pass")
      ->type_name("N")
      ->capture_default_str();
  app.add_option("--prefix-cache", training.options.prefix_cache,
                 "compute what is frozen below the first trained block once a sample, not once an epoch, and "
                 "keep it in at most that much memory, such as 2GB; 0 = not. For adapters at the top only")
      ->type_name("SIZE")
      ->transform(CLI::Validator(
          [](std::string& text) {
            text = std::to_string(parse_size(text, "--prefix-cache"));
            return std::string();
          },
          ""))
      ->capture_default_str();
  app.add_option(
         "--prefix-folder", training.prefix_folder,
         "keep it in a file there, of any size without --prefix-cache, which later runs find. As private "
         "as the data")
      ->type_name("DIR");
}

void add_out(CLI::App& app, OutArguments& out, const char* what, bool can_resume) {
  app.add_option("--out", out.out, what)->type_name("DIR")->required();
  auto* force = app.add_flag("--force", out.force, "replace what is in --out");
  if (can_resume)
    app.add_flag("--resume", out.resume, "go on from the newest checkpoint in --out")->excludes(force);
  app.add_flag("--dry-run", out.dry_run, "load and check everything, and say what would be done");
}

void check_out(const OutArguments& out) {
  using offsite::require;
  std::error_code unseen;
  if (!std::filesystem::exists(out.out, unseen)) {
    require(!out.resume, "--resume was given, but there is no {}", out.out.string());
    return;
  }
  require(std::filesystem::is_directory(out.out, unseen), "--out is {}, which is a file: name a folder",
          out.out.string());
  require(out.force || out.resume || std::filesystem::is_empty(out.out, unseen),
          "--out is {}, which is not empty: name another, or replace it with --force", out.out.string());
}

}  // namespace program
