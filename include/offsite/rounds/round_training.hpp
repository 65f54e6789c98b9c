#pragma once
#include <cstdint>
#include <string>

#include "offsite/core/error.hpp"
#include "offsite/core/random.hpp"
#include "offsite/io/hostile_object.hpp"
#include "offsite/io/json_value.hpp"
#include "offsite/trainer/training_options.hpp"

namespace offsite {

/// How the clients of a federation train: what the owner's round messages say, to all of them alike.
struct RoundTraining {
  TrainingOptions options{};    ///< of one round; the schedule, its warm-up included, runs over all rounds
  std::int64_t rounds = 1;      ///< > 0
  bool keep_optimizer = false;  ///< AdamW goes on where the client's last round left it; else it starts anew

  /// The options of a round, from 1 to `rounds`. Order and dropout masks are another round's own; the first round's are
  /// those of training without rounds.
  [[nodiscard]] TrainingOptions of_round(std::int64_t round) const {
    require(0 < round && round <= rounds, "round {} was asked for, but there are {}", round, rounds);
    auto result = options;
    result.round = round;
    result.rounds = rounds;
    if (round > 1) result.seed = derive_key(options.seed, round);
    return result;
  }

  [[nodiscard]] Json to_json() const;

  /// Takes nothing on trust. \param what  names the text in messages
  /// \throws ProtocolError saying which field is missing, unknown, of the wrong type or out of range.
  [[nodiscard]] static RoundTraining from_json(const Json& json, const std::string& what);
};

inline Json RoundTraining::to_json() const {
  const auto& o = options;
  return Json::object({{"rounds", rounds},
                       {"keep_optimizer", keep_optimizer},
                       {"learning_rate", o.learning_rate},
                       {"num_epochs", o.num_epochs},
                       {"max_steps", o.max_steps},
                       {"batch_size", o.batch_size},
                       {"batch_tokens", o.batch_tokens},
                       {"gradient_accumulation", o.gradient_accumulation},
                       {"schedule", schedule_name(o.schedule)},
                       {"warmup_steps", o.warmup_steps},
                       {"weight_decay", o.weight_decay},
                       {"max_grad_norm", o.max_grad_norm},
                       {"proximal_mu", o.proximal_mu},
                       {"adam_beta1", o.adam_beta1},
                       {"adam_beta2", o.adam_beta2},
                       {"adam_epsilon", o.adam_epsilon},
                       {"attention_dropout", o.attention_dropout},
                       {"residual_dropout", o.residual_dropout},
                       {"shuffle", o.shuffle},
                       {"seed", o.seed},
                       {"max_bad_steps", o.max_bad_steps}});
}

inline RoundTraining RoundTraining::from_json(const Json& json, const std::string& what) {
  constexpr std::int64_t kMost = 1'000'000'000;  // products of two such counts fit
  const detail::HostileObject fields(json, what);
  fields.only({"rounds",       "keep_optimizer",    "learning_rate",         "num_epochs", "max_steps",
               "batch_size",   "batch_tokens",      "gradient_accumulation", "schedule",   "warmup_steps",
               "weight_decay", "max_grad_norm",     "proximal_mu",           "adam_beta1", "adam_beta2",
               "adam_epsilon", "attention_dropout", "residual_dropout",      "shuffle",    "seed",
               "max_bad_steps"});
  RoundTraining result;
  auto& o = result.options;
  result.rounds = fields.integer("rounds", 1, kMost);
  result.keep_optimizer = fields.truth("keep_optimizer");
  o.learning_rate = fields.number("learning_rate");
  o.num_epochs = fields.number("num_epochs");
  o.max_steps = fields.integer("max_steps", 0, kMost);
  o.batch_size = fields.integer("batch_size", 1, kMost);
  o.batch_tokens = fields.integer("batch_tokens", 0, kMost);
  o.gradient_accumulation = fields.integer("gradient_accumulation", 1, kMost);
  o.warmup_steps = fields.integer("warmup_steps", 0, kMost);
  o.weight_decay = fields.number("weight_decay");
  o.max_grad_norm = fields.number("max_grad_norm");
  o.proximal_mu = fields.number("proximal_mu");
  o.adam_beta1 = fields.number("adam_beta1");
  o.adam_beta2 = fields.number("adam_beta2");
  o.adam_epsilon = fields.number("adam_epsilon");
  o.attention_dropout = fields.number("attention_dropout");
  o.residual_dropout = fields.number("residual_dropout");
  o.shuffle = fields.truth("shuffle");
  o.seed = fields.natural("seed");
  o.max_bad_steps = fields.integer("max_bad_steps", 1, kMost);
  try {
    o.schedule = schedule_of(fields.text("schedule"));
    check(o);
  } catch (const ArgumentError& error) {
    throw ProtocolError(formatted("{} cannot be used: {}", what, error.what()));
  }
  return result;
}

}  // namespace offsite
