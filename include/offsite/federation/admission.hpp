#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <string>
#include <vector>

#include "offsite/core/random.hpp"
#include "offsite/federation/messages.hpp"
#include "offsite/federation/owner_options.hpp"
#include "offsite/federation/owner_state.hpp"
#include "offsite/federation/split_difference.hpp"

namespace offsite::federation {

/// Why a client that says this hello cannot take part; empty if it can. \param name  as the transport vouches for it
[[nodiscard]] inline std::string why_not_admitted(const std::string& name, const Hello& hello,
                                                  const OwnerOptions& options, const RunDescription& run,
                                                  const OwnerState& state) {
  if (hello.protocol != kProtocolVersion)
    return formatted("the client speaks version {} of the protocol, but the owner version {}", hello.protocol,
                     kProtocolVersion);
  if (!is_client_name(name)) return "the name " + offsite::detail::shown(name) + " cannot name a client";
  const auto& names = options.names;
  if (!names.empty() && std::find(names.begin(), names.end(), name) == names.end())
    return "the name '" + name + "' is not on the owner's list of clients";
  if (auto difference = explain_split_difference(hello.split, run.split); !difference.empty())
    return difference;
  if (hello.samples > options.max_samples)
    return formatted("the client claims {} samples, but the owner allows {} (max_samples)", hello.samples,
                     options.max_samples);
  if (!state.clients.contains(name) && std::ssize(state.clients) >= options.max_clients)
    return formatted("the run has its {} clients already (max_clients)", options.max_clients);
  return {};
}

/// Those of the clients at hand that a round asks, in the order of their names: a fraction of them, and `min_clients` at
/// least, drawn by the run's seed and the round's number. \param here  at least `min_clients`
[[nodiscard]] inline std::vector<std::string> choose_clients(const std::vector<std::string>& here,
                                                             const OwnerOptions& options,
                                                             std::int64_t round) {
  const auto share =
      static_cast<std::int64_t>(std::ceil(options.fraction * static_cast<double>(here.size())));
  const auto count = std::clamp(share, options.min_clients, std::ssize(here));
  const auto order = permutation(std::ssize(here), derive_key(options.seed, round));
  std::vector<std::string> chosen;
  for (std::int64_t i = 0; i < count; ++i)
    chosen.push_back(here[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])]);
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

}  // namespace offsite::federation
