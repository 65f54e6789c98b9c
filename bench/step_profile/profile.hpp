// Runs a client's training steps of one model and hands back what they cost.
#pragma once
#include <ATen/Parallel.h>

#include "common.hpp"
#include "offsite/core/dtype.hpp"
#include "offsite/io/model_folder.hpp"
#include "offsite/trainer/client.hpp"
#include "step_profile/meter.hpp"

namespace bench {

template <class Model>
void profile_offer(offsite::Offer<Model> offer, const Arguments& arguments) {
  using namespace offsite;
  const auto type = arguments.text("type") == "float32" ? at::kFloat : at::kBFloat16;
  const auto batch = arguments.number("batch"), steps = arguments.number("steps"),
             warm = arguments.number("warm");
  const auto vocabulary = offer.model.config.vocabulary_size();
  const bool vary = arguments.number("vary") != 0;
  auto samples = sciq_samples(arguments.text("data"),
                              static_cast<std::size_t>(vary ? batch * (warm + steps) : batch), vocabulary);
  // Those of the first steps come from the end, so that the timed ones are the first of the file.
  if (vary) std::rotate(samples.begin(), samples.end() - batch * warm, samples.end());
  const TrainingOptions options{
      .max_steps = warm + steps, .batch_size = batch, .weight_decay = 0.01, .shuffle = false};

  const double began = now();
  Client<Model> client(std::move(offer), type);
  if (arguments.number("rate") == 0) {
    Meter meter(vocabulary, client.parameters().layout().size(), type);
    const auto observer = observe([&](const StepEvent& e) { meter.step_done(e.tokens, e.step > warm); });
    meter.start();
    client.train(samples, options, {.observers = {observer}});
    meter.print();
    return;
  }
  Usage start{};
  std::int64_t rows = 0;
  const auto observer = observe([&](const StepEvent& e) {
    if (e.step == warm) start = Usage::read();
    if (e.step > warm) rows += e.tokens;
  });
  client.train(samples, options, {.observers = {observer}});
  const Usage used = Usage::read() - start;
  std::int64_t scored = 0;
  for (std::size_t i = samples.size() - static_cast<std::size_t>(batch * steps); vary && i < samples.size();
       ++i)
    scored += samples[i].scored();
  // A row is a token that predicts the next: the last token of a sample is counted as peers count it.
  const auto tokens = static_cast<double>(rows + batch * steps);
  std::printf(
      "{\"bench\": \"offsite\", \"steps\": %lld, \"samples\": %lld, \"real_tokens\": %.0f, \"rows\": %lld, "
      "\"scored\": %lld, \"wall_s\": %.3f, \"real_tok_per_s\": %.1f, \"user_s\": %.2f, \"sys_s\": %.2f, "
      "\"minor_faults\": %lld, \"warmup_s\": %.2f, \"peak_rss_mib\": %.0f, \"threads\": %d}\n",
      static_cast<long long>(steps), static_cast<long long>(batch * steps), tokens,
      static_cast<long long>(rows), static_cast<long long>(scored), used.wall, tokens / used.wall, used.user,
      used.system, static_cast<long long>(used.faults), start.wall - began, peak_resident(),
      at::get_num_threads());
}

template <class Model>
void profile_model(const Arguments& arguments) {
  const offsite::SplitOptions split{arguments.number("bottom"), arguments.number("top"),
                                    arguments.number("emulator")};
  if (arguments.text("model") == "gpt2-small") {
    if constexpr (requires { offsite::ConfigOf<Model>().n_embd; })
      profile_offer<Model>(random_offer<Model>(offsite::ConfigOf<Model>(), split), arguments);
  } else {
    const auto model = offsite::load_model<Model>(arguments.text("model"));
    const auto plan = offsite::plan_split(model.config.num_blocks(), split, offsite::UniformDrop{});
    profile_offer<Model>({plan, offsite::BlockAccess<Model>::select(model, plan.kept())}, arguments);
  }
}

}  // namespace bench
