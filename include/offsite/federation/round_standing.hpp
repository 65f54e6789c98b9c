#pragma once
#include <algorithm>
#include <cstdint>
#include <string>

#include "offsite/core/error.hpp"
#include "offsite/federation/events.hpp"
#include "offsite/federation/owner_state.hpp"

/// How clients stand in an owner's current round, by what was recorded.
namespace offsite::federation {

[[nodiscard]] inline bool is_chosen(const OwnerState& state, const std::string& name) {
  return std::find(state.chosen.begin(), state.chosen.end(), name) != state.chosen.end();
}

/// Nothing more of this round is expected of that client.
[[nodiscard]] inline bool is_settled(const OwnerState& state, const std::string& name) {
  return state.updates.contains(name) || state.refused.contains(name) || state.left.contains(name);
}

/// The round waits for that client's update.
[[nodiscard]] inline bool is_awaited(const OwnerState& state, const std::string& name) {
  return state.phase == RoundPhase::kOpen && is_chosen(state, name) && !is_settled(state, name);
}

/// What a client that has nothing to do waits for. \param min_clients  of a round
[[nodiscard]] inline std::string waiting_for(const OwnerState& state, const std::string& name,
                                             std::int64_t min_clients) {
  if (state.phase == RoundPhase::kOpen)
    return formatted("round {} {}", state.round,
                     is_awaited(state, name)        ? "awaits this client's update"
                     : state.updates.contains(name) ? "has this client's update and awaits others"
                                                    : "goes on without this client");
  if (state.phase != RoundPhase::kIdle) return formatted("round {} is being aggregated", state.round);
  return formatted("round {} begins when {} clients are here", state.round + 1, min_clients);
}

/// Why no update of this client for that round is awaited; empty if one is.
[[nodiscard]] inline std::string why_not_awaited(const OwnerState& state, const std::string& name,
                                                 std::int64_t round) {
  if (state.finished) return "the run is over";
  if (round != state.round || state.phase != RoundPhase::kOpen)
    return round > state.round
               ? formatted("there is no round {} yet", round)
               : formatted("round {} was closed before the update came; the next one is open to it", round);
  if (!is_chosen(state, name)) return formatted("round {} did not ask this client", round);
  if (state.updates.contains(name)) return formatted("another update of round {} was accepted before", round);
  if (const auto found = state.refused.find(name); found != state.refused.end()) return found->second;
  return {};
}

/// The next adapters are made of these.
[[nodiscard]] inline Aggregate aggregation_of(const OwnerState& state) {
  Aggregate request{state.round, state.global.sha256, state.policy_state, {}};
  for (const auto& [name, update] : state.updates)
    request.updates.push_back({name, update.blob.sha256, static_cast<double>(update.samples)});
  return request;
}

}  // namespace offsite::federation
