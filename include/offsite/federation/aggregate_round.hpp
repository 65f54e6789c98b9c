#pragma once
#include <Eigen/Core>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
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

/// All numbers of these tensors where they lie, if that is end to end in the order of their names and where floats may lie;
/// nothing else is written by our clients, but files of others need not be so.
[[nodiscard]] inline std::optional<std::span<const float>> end_to_end(std::span<const NamedView> tensors) {
  if (tensors.empty()) return std::nullopt;
  const auto* begin = tensors.front().tensor.bytes.data();
  const auto* end = begin;
  for (const auto& [name, tensor] : tensors) {
    if (tensor.bytes.data() != end) return std::nullopt;
    end += tensor.bytes.size();
  }
  if (reinterpret_cast<std::uintptr_t>(begin) % alignof(float) != 0) return std::nullopt;
  return std::span(reinterpret_cast<const float*>(begin),
                   static_cast<std::size_t>(end - begin) / sizeof(float));
}

/// A client's update as the journal holds it, in a mapped file if that is where; copied only if its numbers lie apart.
class HeldUpdate {
 public:
  HeldUpdate(BlobView blob, double weight) : blob_(std::move(blob)), weight_(weight) {
    const auto tensors = read_safetensors(blob_.bytes, "an update");
    if (const auto there = end_to_end(tensors))
      numbers_ = *there;
    else
      copy_ = flattened(tensors);
  }
  [[nodiscard]] UpdateView view() const {
    if (copy_.size() > 0) return {{copy_.data(), copy_.size()}, weight_};
    return {{numbers_.data(), static_cast<Eigen::Index>(numbers_.size())}, weight_};
  }

 private:
  BlobView blob_;
  std::span<const float> numbers_;
  Eigen::VectorXf copy_;
  double weight_;
};

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

/// Asks the policy for the next values. Of one that takes a few updates at a time, no more than these are mapped, and none
/// is in memory of its own. \returns why it refuses; what the journal throws passes through
template <AggregationPolicy Policy, class J>
[[nodiscard]] std::string aggregate_into(Eigen::VectorXf& next, const Policy& policy,
                                         const Aggregate& request, const Eigen::VectorXf& before,
                                         typename Policy::State& state, J& journal) {
  const auto held = [&](const CountedUpdate& counted) {
    return HeldUpdate(journal.view(counted.sha256), counted.weight);
  };
  if constexpr (StreamingAggregation<Policy>) {
    if (policy.streams()) {
      WeightedSum sum;
      for (std::span rest(request.updates);;) {
        const auto few = rest.first(std::min(rest.size(), WeightedSum::kTogether));
        rest = rest.subspan(few.size());
        std::vector<HeldUpdate> blobs;
        std::vector<UpdateView> views;
        blobs.reserve(few.size());
        for (const auto& counted : few) views.push_back(blobs.emplace_back(held(counted)).view());
        const std::span<const UpdateView> updates(views);
        auto why = refusal_of([&] {
          if (rest.empty())
            next = policy.finish(before, sum, state, updates);
          else
            policy.add(sum, updates);
        });
        if (rest.empty() || !why.empty()) return why;
      }
    }
  }
  std::vector<ClientUpdate> updates;
  for (const auto& counted : request.updates) updates.push_back({held(counted).view().delta, counted.weight});
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
