#pragma once
#include <cstdio>
#include <optional>

#include "offsite/model/common.hpp"
#include "offsite/model/peft.hpp"
#include "offsite/trainer/offer.hpp"
#include "offsite/trainer/offer_folder.hpp"

namespace program {

inline std::optional<Dtype> file_dtype(const std::string& dtype) {
  if (dtype == "auto") return std::nullopt;
  return dtype == "bfloat16" ? Dtype::kBF16 : Dtype::kF32;
}

inline void put_disclosure(Json& json, const DisclosureReport& report) { json.update(to_json(report)); }

/// Cuts a model and writes the offer, unless the disclosure policy refuses it.
template <class Model>
void run_split(const SplitCommand& command, Session& session) {
  using Access = BlockAccess<Model>;
  Model model = load_model<Model>(command.model);
  const auto cut = cut_of(command.split, model.config.num_blocks());
  const auto adapters = adapters_of(command.split.peft, session.common().seed);
  check_writable(adapters);
  // Not by an Owner: the values that it would aggregate are as large as the adapters, and no part of an offer.
  const auto offer =
      cut_offer<Access>(model, plan_split(model.config.num_blocks(), cut.options, cut.drop), adapters);

  OfferOptions options;
  options.dtype = file_dtype(session.common().dtype);
  session.computes_in(session.common().dtype == "auto" ? "checkpoint" : session.common().dtype);
  if (!command.share.empty())
    options.shared =
        command.share == std::vector<std::string>{"none"} ? std::vector<std::string>{} : command.share;
  options.policy = {command.max_verbatim, command.max_emulator_score};
  if (command.out.force) options.existing = StagedFolder::kReplace;
  if (!command.data.task.empty()) {
    const auto tokenizer = tokenizer_for(command.model, model.config.vocabulary_size());
    const auto data = load_evaluation(session, command.data, tokenizer, model.config.context_length());
    Model emulator =
        cast_model<Access>(offer.model, compute_type(session, Precision::kScoring, own_type(model)));
    const auto scores = score(session, emulator, data, "emulator").scores;
    require(scores.accuracy.has_value(), "--task {} has no choices, so it gives the emulator no score",
            command.data.task);
    options.emulator_score = *scores.accuracy;
  } else {
    require(!command.max_emulator_score,
            "--max-emulator-score needs --task and --data to score the emulator by");
  }

  auto prepared = prepare_offer(model, offer, command.model, options);
  if (!command.out.dry_run) writing([&] { write_offer(prepared, command.model, command.out.out, options); });
  for (const auto& line : prepared.disclosure.lines()) std::printf("%s\n", line.c_str());
  put_disclosure(session.results, prepared.disclosure);
  session.say(command.out.dry_run
                  ? fmt::format("{} would be written", command.out.out.string())
                  : fmt::format("wrote {} ({}); a client trains it with offsite train --offer {}",
                                command.out.out.string(), bytes_text(prepared.disclosure.bytes),
                                command.out.out.string()));
}

}  // namespace program
