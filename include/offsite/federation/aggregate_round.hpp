#pragma once
#include <Eigen/Core>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "offsite/aggregation/aggregation_policy.hpp"
#include "offsite/aggregation/pieces.hpp"
#include "offsite/aggregation/policy_state.hpp"
#include "offsite/aggregation/streaming.hpp"
#include "offsite/federation/events.hpp"
#include "offsite/federation/journal.hpp"
#include "offsite/federation/safetensors_bytes.hpp"

namespace offsite::federation {

namespace detail {

/// The numbers of these tensors end to end, in the order of their names.
[[nodiscard]] inline Eigen::VectorXf flattened(std::span<const NamedView> tensors) {
  Eigen::Index size = 0;
  for (const auto& [name, tensor] : tensors)
    size += static_cast<Eigen::Index>(tensor.bytes.size() / sizeof(float));
  auto flat = offsite::detail::long_vector<Eigen::VectorXf>(size);
  auto* out = reinterpret_cast<std::byte*>(flat.data());
  for (const auto& [name, tensor] : tensors) {
    if (!tensor.bytes.empty()) std::memcpy(out, tensor.bytes.data(), tensor.bytes.size());
    out += tensor.bytes.size();
  }
  return flat;
}

/// `flat` as a safetensors file of the names and shapes of `like`.
[[nodiscard]] inline std::vector<std::byte> unflattened(const Eigen::VectorXf& flat,
                                                        std::vector<NamedView> like) {
  auto bytes = std::as_bytes(std::span(flat.data(), static_cast<std::size_t>(flat.size())));
  for (auto& [name, tensor] : like) {
    const auto size = tensor.bytes.size();
    tensor.bytes = bytes.first(size);
    bytes = bytes.subspan(size);
  }
  return safetensors_bytes(like);
}

template <PersistentState S, Journal J>
void load_state(S& state, const std::string& sha256, J& journal) {
  if constexpr (!std::is_empty_v<S>) {
    if (sha256.empty()) return;
    const auto view = journal.view(sha256);
    const auto tensors = read_safetensors(view.bytes, "the policy's state");
    state.visit([&](std::string_view name, Eigen::VectorXf& vector) {
      for (const auto& tensor : tensors)
        if (tensor.name == name) vector = flattened(std::span(&tensor, 1));
    });
  }
}

/// The state as a blob; its hash, or "" if there is nothing to keep.
template <PersistentState S, Journal J>
[[nodiscard]] std::string save_state(S& state, J& journal) {
  if constexpr (std::is_empty_v<S>) {
    return {};
  } else {
    std::vector<NamedView> tensors;
    state.visit([&](std::string_view name, Eigen::VectorXf& vector) {
      const auto bytes = std::as_bytes(std::span(vector.data(), static_cast<std::size_t>(vector.size())));
      if (vector.size() > 0) tensors.push_back({std::string(name), {Dtype::kF32, {vector.size()}, bytes}});
    });
    return tensors.empty() ? std::string() : journal.put(safetensors_bytes(tensors)).sha256;
  }
}

template <class J>
[[nodiscard]] ClientUpdate update_of(const CountedUpdate& update, J& journal) {
  const auto view = journal.view(update.sha256);
  return {flattened(read_safetensors(view.bytes, "an update")), update.weight};
}

/// Why `work` cannot be done; empty if it was.
template <class Work>
[[nodiscard]] std::string refusal_of(const Work& work) {
  try {
    work();
    return {};
  } catch (const Error& error) {
    return error.what();
  }
}

constexpr std::size_t kUpdatesTogether =
    4;  ///< in memory at a time: for one, passing over the sum costs most

/// Asks the policy for the next values; of one that takes a few updates at a time, no more than these are in memory.
/// \returns why it refuses; what the journal throws passes through
template <AggregationPolicy Policy, Journal J>
[[nodiscard]] std::string aggregate_into(Eigen::VectorXf& next, const Policy& policy,
                                         const Aggregate& request, const Eigen::VectorXf& before,
                                         typename Policy::State& state, J& journal) {
  if constexpr (StreamingAggregation<Policy>) {
    if (policy.streams()) {
      WeightedSum sum;
      std::vector<ClientUpdate> few;
      for (std::span rest(request.updates); !rest.empty(); rest = rest.subspan(few.size())) {
        few.clear();
        for (const auto& counted : rest.first(std::min(rest.size(), kUpdatesTogether)))
          few.push_back(update_of(counted, journal));
        if (auto why = refusal_of([&] { policy.add(sum, few); }); !why.empty()) return why;
      }
      return refusal_of([&] { next = policy.finish(before, sum, state); });
    }
  }
  std::vector<ClientUpdate> updates;
  for (const auto& counted : request.updates) updates.push_back(update_of(counted, journal));
  return refusal_of([&] { next = policy.aggregate(before, updates, state); });
}

}  // namespace detail

/// Carries out `Aggregate`: the next adapters, in the journal. A policy that refuses these updates is an answer with an
/// error; what the journal throws (a full disk) passes through.
template <AggregationPolicy Policy, Journal J>
requires PersistentState<typename Policy::State>
[[nodiscard]] Aggregated aggregate_round(const Policy& policy, const Aggregate& request, J& journal) {
  const auto global = journal.view(request.global);
  const auto tensors = read_safetensors(global.bytes, "the adapters");
  const auto before = detail::flattened(tensors);
  typename Policy::State state{};
  detail::load_state(state, request.policy_state, journal);
  Aggregated answer{request.round, {}, {}, {}};
  Eigen::VectorXf next;
  answer.error = detail::aggregate_into(next, policy, request, before, state, journal);
  if (answer.error.empty() && !(next.size() == before.size() && next.allFinite()))
    answer.error = formatted("the aggregation of round {} gave numbers that are not finite", request.round);
  if (!answer.error.empty()) return answer;
  answer.global = journal.put(detail::unflattened(next, tensors));
  answer.policy_state = detail::save_state(state, journal);
  return answer;
}

}  // namespace offsite::federation
