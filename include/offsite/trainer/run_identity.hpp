#pragma once
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <span>
#include <string>

#include "offsite/core/format.hpp"
#include "offsite/core/parameter_layout.hpp"
#include "offsite/core/random.hpp"
#include "offsite/core/tensors.hpp"
#include "offsite/data/sample.hpp"
#include "offsite/trainer/checkpoint_store.hpp"
#include "offsite/trainer/training_options.hpp"

namespace offsite {

/// What a training run is: its options, data, compute type and trained tensors. Data and tensors are in it by a
/// key of 64 bits each.
inline RunIdentity run_identity(const TrainingOptions& o, const ParameterLayout& layout,
                                std::span<const Sample> samples, at::ScalarType compute) {
  std::uint64_t data = derive_key(samples.size());
  for (const auto& sample : samples) {
    data = derive_key(data, sample.number, sample.scored_from);
    for (const auto token : sample.tokens) data = mix(data ^ static_cast<std::uint64_t>(token));
  }
  std::uint64_t tensors = derive_key(layout.size());
  for (const auto& tensor : layout.tensors()) {
    for (const char c : tensor.name) tensors = derive_key(tensors, c);
    tensors = derive_key(tensors, tensor.offset, tensor.numel);
  }
  RunIdentity run;
  const auto add = [&](const char* name, const TextArgument& value) {
    run.emplace_back(name, formatted("{}", value));
  };
  add("learning_rate", o.learning_rate);
  add("num_epochs", o.num_epochs);
  add("max_steps", o.max_steps);
  add("batch_size", o.batch_size);
  add("batch_tokens", o.batch_tokens);
  add("gradient_accumulation", o.gradient_accumulation);
  add("schedule", schedule_name(o.schedule));
  add("warmup_steps", o.warmup_steps);
  add("weight_decay", o.weight_decay);
  add("max_grad_norm", o.max_grad_norm);
  add("proximal_mu", o.proximal_mu);
  add("adam_beta1", o.adam_beta1);
  add("adam_beta2", o.adam_beta2);
  add("adam_epsilon", o.adam_epsilon);
  add("attention_dropout", o.attention_dropout);
  add("residual_dropout", o.residual_dropout);
  add("shuffle", o.shuffle);
  add("seed", o.seed);
  add("logging_steps", o.logging_steps);
  add("eval_steps", o.eval_steps);
  add("metric", static_cast<int>(o.metric));
  add("keep_best", o.keep_best);
  add("early_stopping_patience", o.early_stopping_patience);
  add("round", o.round);
  add("rounds", o.rounds);
  add("rows_per_pass", o.rows_per_pass);
  add("prefix_cache", o.prefix_cache);
  add("dtype", dtype_name(dtype_of(compute)));
  add("data", formatted("{:016x}", data));
  add("trained tensors", formatted("{:016x}", tensors));
  return run;
}

}  // namespace offsite
