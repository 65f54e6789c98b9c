#pragma once
#include <cstdio>

#include "offsite/model/common.hpp"
#include "offsite/model/evaluate.hpp"
#include "offsite/model/training.hpp"
#include "offsite/trainer/client.hpp"
#include "offsite/trainer/offer_folder.hpp"
#include "offsite/trainer/prefix_files.hpp"
#include "offsite/trainer/training_checkpoint.hpp"

namespace program {

/// Trains an offer's adapters and writes the update folder.
template <class Model>
void run_train(const TrainCommand& command, Session& session) {
  auto received = read_offer<Model>(command.offer, shared_folder(command.shared_from));
  const auto config = received.offer.model.config;
  const auto options = training_options(session.common(), command.training, config);
  const auto tokenizer = tokenizer_for(command.offer, config.vocabulary_size());
  const auto samples = load_training(session, command.data, tokenizer, config.context_length());
  std::optional<Evaluation> held_out;
  if (!command.training.eval_data.empty()) {
    auto data = command.data;
    data.data = command.training.eval_data;
    data.skip = 0;
    data.limit = command.training.eval_limit;
    held_out = load_evaluation(session, data, tokenizer, config.context_length());
  }
  const auto type = compute_type(session, Precision::kTraining, own_type(received.offer.model));
  Client<Model, PlacedAdapters> client(std::move(received.offer), type, received.adapters);
  const auto trainable = client.parameters().layout().size();
  session.say(fmt::format("{} samples, {} of the offer's parameters train", samples.size(), trainable));
  if (command.out.dry_run) {
    session.say(fmt::format("{} would be written", command.out.out.string()));
    put_summary(session.results, {}, trainable);
    session.results["samples"] = samples.size();
    return;
  }

  const auto checkpoints = command.out.out / "checkpoints";
  std::error_code unseen;
  if (command.out.force) std::filesystem::remove_all(checkpoints, unseen);
  TrainingReport report(session, "train", command.training.log);
  TrainingHooks hooks{.observers = {report.observer()},
                      .checkpoints = checkpoints_in(checkpoints),
                      .resume = command.out.resume,
                      .interrupted = interrupted};
  if (!command.training.prefix_folder.empty())
    hooks.prefix_store = prefix_files_in(command.training.prefix_folder);
  if (held_out) hooks.evaluate = [&] { return metrics_of(score(session, client.model(), *held_out).scores); };
  const auto summary = client.train(samples, options, hooks);
  report.finish();
  require<Error>(!summary.interrupted, "interrupted at step {}: the checkpoint is in {}; go on with --resume",
                 summary.steps, checkpoints.string());

  const auto update = client.update(static_cast<double>(summary.samples));
  writing([&] {
    write_update(command.out.out, command.offer, client.parameters().layout(),
                 {update.delta.data(), static_cast<std::size_t>(update.delta.size())},
                 {.samples = summary.samples,
                  .scored_tokens = summary.scored_tokens,
                  .steps = summary.steps,
                  .loss = summary.loss,
                  .seed = session.common().seed},
                 StagedFolder::kReplace);
  });
  std::printf("%lld steps, %lld samples, loss %.4f, %.0f tokens/s%s\n", static_cast<long long>(summary.steps),
              static_cast<long long>(summary.samples), summary.loss, summary.tokens_per_second,
              summary.stopped_early ? ", stopped early" : "");
  session.say(fmt::format("wrote {}; the owner plugs it in with offsite plug-in --update {}",
                          command.out.out.string(), command.out.out.string()));
  put_summary(session.results, summary, trainable);
}

}  // namespace program
