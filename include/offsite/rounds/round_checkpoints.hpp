#pragma once
#include <ATen/core/Tensor.h>

#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <utility>

#include "offsite/core/error.hpp"
#include "offsite/federation/messages.hpp"
#include "offsite/io/json.hpp"
#include "offsite/io/sha256.hpp"
#include "offsite/trainer/checkpoint_store.hpp"
#include "offsite/trainer/training_checkpoint.hpp"

namespace offsite {

/// Keeps the checkpoints of a client's training of this round in `folder`: with `resume` a client that was killed in it goes
/// on from the newest, and its update is the same bits. A checkpoint of another run, offer, round, options or data, or one
/// that is broken, is removed, and the round begins anew.
/// \param split  as the owner's welcome had it; it names every tensor of the offer by its hash
/// \param say    is told in one sentence where the training goes on, or why it does not
[[nodiscard]] inline CheckpointStore round_checkpoints_in(const std::filesystem::path& folder,
                                                          const federation::Round& round, const Json& split,
                                                          std::function<void(const std::string&)> say) {
  const TrainingCheckpoints all(folder);
  const auto text = split.dump();
  const RunIdentity first{{"run", round.run},
                          {"round", std::to_string(round.round)},
                          {"offer", sha256_hex(std::as_bytes(std::span(text)))},
                          {"adapters", round.global.sha256}};
  const auto whole = [first](const RunIdentity& training) {
    auto identity = first;
    identity.insert(identity.end(), training.begin(), training.end());
    return identity;
  };
  CheckpointStore store;
  store.save = [all, whole](const RunIdentity& run, const TrainingState& state,
                            const FlatParameters& parameters, const at::Tensor& best) {
    return all.save(whole(run), state, parameters, best).string();
  };
  store.restore = [all, whole, folder, number = round.round, say = std::move(say)](
                      const RunIdentity& run, FlatParameters& parameters, at::Tensor& best,
                      const std::function<void(std::string)>& warn) -> std::optional<TrainingState> {
    std::string reason;
    try {
      reason = all.difference(whole(run));
      if (reason.empty()) {
        auto state = all.restore(whole(run), parameters, best, warn);
        if (state) say(formatted("round {}: resumed at step {}", number, state->step));
        return state;
      }
    } catch (const Error& error) {
      reason = error.what();
    }
    say(formatted("round {} begins at its first step, not from the checkpoint in {}: {}", number,
                  folder.string(), reason));
    std::error_code ignored;
    std::filesystem::remove_all(folder, ignored);
    return std::nullopt;
  };
  return store;
}

}  // namespace offsite
