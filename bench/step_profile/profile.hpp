// Runs a client's training steps of one model and hands back what they cost.
#pragma once
#include <ATen/Parallel.h>

#include "common.hpp"
#include "offsite/core/dtype.hpp"
#include "offsite/io/json.hpp"
#include "offsite/io/model_folder.hpp"
#include "offsite/trainer/client.hpp"
#include "step_profile/meter.hpp"
#include "step_profile/shapes.hpp"

namespace bench {

/// GPT-2 stores the weights of linear layers as (in, out), the others as (out, in).
template <class Model>
inline constexpr bool kInByOut = requires {
  offsite::ConfigOf<Model>{}.n_embd;
};

/// Trains for some epochs over the same samples; how long did the first take, and the others on average?
template <class Model>
void print_epochs(offsite::Client<Model>& client, std::span<const offsite::Sample> samples,
                  const offsite::TrainingOptions& options, std::int64_t epochs,
                  const PeakOfAnonymousMemory& anonymous) {
  double first = 0;
  std::int64_t rows = 0;
  Usage start = Usage::read(), begin_of_later = start;
  const auto observer = offsite::observe([&](const offsite::StepEvent& e) {
    rows += e.tokens;
    if (e.step * epochs != e.total) return;
    begin_of_later = Usage::read();
    first = (begin_of_later - start).wall;
  });
  client.train(samples, options, {.observers = {observer}});
  const Usage later = Usage::read() - begin_of_later;
  const auto others = static_cast<double>(std::max<std::int64_t>(epochs - 1, 1));
  std::printf(
      "{\"bench\": \"epochs\", \"samples\": %zu, \"real_tokens\": %lld, \"first_epoch_s\": %.3f, "
      "\"later_epoch_s\": %.3f, \"later_cpu_s\": %.3f, \"first_cpu_s\": %.3f, \"peak_rss_mib\": %.0f, "
      "\"peak_anonymous_mib\": %.0f}\n",
      samples.size(), static_cast<long long>(rows / epochs) + static_cast<long long>(samples.size()), first,
      later.wall / others, (later.user + later.system) / others,
      (begin_of_later - start).user + (begin_of_later - start).system, peak_resident(),
      anonymous.mebibytes());
}

/// What trades memory for speed, where the library has it.
template <class Options>
void set_memory(Options& options, const Arguments& arguments) {
  if constexpr (requires { options.recompute; }) options.recompute = arguments.number("recompute");
  if constexpr (requires { options.prefix_cache; }) options.prefix_cache = arguments.number("cache") << 20;
}

/// Pairs of a row and one that it attends to: each sequence's own rows up to it.
inline double pairs_of(std::span<const offsite::Sample> samples) {
  double pairs = 0;
  for (const auto& sample : samples) {
    const auto rows = static_cast<double>(sample.rows());
    pairs += rows * (rows + 1) / 2;
  }
  return pairs;
}

/// Puts all tensors of the offer on a device.
template <class Model>
void move_to(const c10::Device& device, Model& model) {
  using Access = offsite::BlockAccess<Model>;
  const auto move = [&](std::string_view, at::Tensor& tensor) { tensor = tensor.to(device); };
  model.visit_shared(move);
  for (std::int64_t i = 0; i < Access::num_blocks(model); ++i) Access::visit(Access::block(model, i), move);
}

template <class Model>
void profile_offer(offsite::Offer<Model> offer, const Arguments& arguments) {
  using namespace offsite;
  if (const c10::Device device(arguments.text("device")); !device.is_cpu()) move_to(device, offer.model);
  const auto type = arguments.text("type") == "float32" ? at::kFloat : at::kBFloat16;
  const auto batch = arguments.number("batch"), steps = arguments.number("steps"),
             warm = arguments.number("warm");
  const auto vocabulary = offer.model.config.vocabulary_size();
  const bool vary = arguments.number("vary") != 0;
  const auto from = arguments.number("from");
  auto samples =
      sciq_samples(arguments.text("data"),
                   static_cast<std::size_t>(from + (vary ? batch * (warm + steps) : batch)), vocabulary);
  samples.erase(samples.begin(), samples.begin() + from);
  if (arguments.number("arena") != 0) give_back_freed_memory();  // as the program does
  // Those of the first steps come from the end, so that the timed ones are the first of the file.
  if (vary) std::rotate(samples.begin(), samples.end() - batch * warm, samples.end());
  const auto epochs = arguments.number("epochs");
  TrainingOptions options{.num_epochs = static_cast<double>(std::max<std::int64_t>(epochs, 1)),
                          .max_steps = epochs > 0 ? 0 : warm + steps,
                          .batch_size = batch,
                          .weight_decay = 0.01,
                          .shuffle = false};
  set_memory(options, arguments);

  const double began = now();
  Client<Model> client(std::move(offer), type);
  if (arguments.number("rate") == 0) {
    Meter meter(vocabulary, client.parameters().layout().size(), type, kInByOut<Model>);
    const auto observer = observe([&](const StepEvent& e) { meter.step_done(e.tokens, e.step > warm); });
    meter.start();
    client.train(samples, options, {.observers = {observer}});
    Budget budget = meter.finish();
    budget.pairs = pairs_of(std::span(samples).last(static_cast<std::size_t>(vary ? batch * steps : batch))) /
                   static_cast<double>(vary ? steps : 1);
    arguments.number("json") != 0 ? budget.print_json() : budget.print();
    return;
  }
  PeakOfAnonymousMemory anonymous;
  if (epochs > 0) {
    print_epochs(client, samples, options, epochs, anonymous);
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
      "\"minor_faults\": %lld, \"warmup_s\": %.2f, \"peak_rss_mib\": %.0f, \"peak_anonymous_mib\": %.0f, "
      "\"threads\": %d}\n",
      static_cast<long long>(steps), static_cast<long long>(batch * steps), tokens,
      static_cast<long long>(rows), static_cast<long long>(scored), used.wall, tokens / used.wall, used.user,
      used.system, static_cast<long long>(used.faults), start.wall - began, peak_resident(),
      anonymous.mebibytes(), at::get_num_threads());
}

template <class Model>
void profile_model(const Arguments& arguments) {
  const offsite::SplitOptions split{arguments.number("bottom"), arguments.number("top"),
                                    arguments.number("emulator")};
  if (const Shape* shape = shape_named(arguments.text("model"))) {
    auto fields = offsite::ConfigOf<Model>{}.to_json();
    fields.update(offsite::parse_json(shape->fields, std::string(shape->name)));
    profile_offer<Model>(random_offer<Model>(offsite::ConfigOf<Model>::from_json(fields), split), arguments);
  } else {
    const auto model = offsite::load_model<Model>(arguments.text("model"));
    const auto plan = offsite::plan_split(model.config.num_blocks(), split, offsite::UniformDrop{});
    profile_offer<Model>({plan, offsite::BlockAccess<Model>::select(model, plan.kept())}, arguments);
  }
}

}  // namespace bench
