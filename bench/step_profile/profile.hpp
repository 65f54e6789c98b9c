// Runs a client's training steps of one model and hands back what they cost.
#pragma once
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
  auto samples = sciq_samples(arguments.text("data"), 512, vocabulary);
  if (arguments.number("vary") == 0) samples.resize(static_cast<std::size_t>(batch));

  Client<Model> client(std::move(offer), type);
  Meter meter(vocabulary, client.parameters().layout().size(), type);
  const auto observer = observe([&](const StepEvent& e) { meter.step_done(e.tokens, e.step > warm); });
  meter.start();
  client.train(samples,
               {.max_steps = warm + steps, .batch_size = batch, .weight_decay = 0.01, .shuffle = false},
               {.observers = {observer}});
  meter.print();
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
