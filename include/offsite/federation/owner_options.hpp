#pragma once
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/federation/blob.hpp"
#include "offsite/federation/events.hpp"

namespace offsite::federation {

/// How an owner runs a federation. Times are in milliseconds of the machine's time (see `Tick`).
struct OwnerOptions {
  std::int64_t rounds = 1;                ///< > 0
  std::int64_t min_clients = 1;           ///< a round starts, and its updates are used, with no fewer, > 0
  std::int64_t max_clients = 1000;        ///< names that may take part in the run, >= min_clients
  std::int64_t start_clients = 0;         ///< an owner that starts opens no round before so many came, >= 0
  double fraction = 1;                    ///< of the clients at hand that a round asks, in (0, 1]
  std::uint64_t seed = 42;                ///< of the choice of clients
  std::int64_t deadline_ms = 3'600'000;   ///< of a round; whoever is later is left out of it, > 0
  std::int64_t max_extensions = 3;        ///< deadlines more that a round of too few updates gets, >= 0
  std::int64_t patience_ms = 86'400'000;  ///< for `min_clients` to come before a round, > 0
  std::int64_t silence_ms = 30'000;       ///< a client not heard of for so long is away, > 0
  std::int64_t grace_ms = 600'000;        ///< for clients to fetch the final adapters, >= 0
  std::int64_t max_samples = 1'000'000;   ///< a client may claim, > 0
  double max_norm = std::numeric_limits<double>::infinity();  ///< of an update, > 0
  double max_norm_ratio = 20;      ///< of an update's norm to the median of those accepted before, > 1
  std::vector<std::string> names;  ///< clients that may come; empty = all that the transport lets in
  Timing timing;

  /// \throws ArgumentError naming the first option that is out of its range.
  void check() const {
    require(rounds > 0, "rounds is {}, but it must be positive", rounds);
    require(0 < min_clients && min_clients <= max_clients,
            "min_clients is {} and max_clients {}, but 0 < min <= max", min_clients, max_clients);
    require(0 <= start_clients && start_clients <= max_clients,
            "start_clients is {}, but it must be 0 to max_clients, which is {}", start_clients, max_clients);
    require(fraction > 0 && fraction <= 1, "fraction is {}, but it must be above 0 and at most 1", fraction);
    require(deadline_ms > 0 && patience_ms > 0 && silence_ms > 0 && grace_ms >= 0 && max_extensions >= 0,
            "deadline_ms {}, patience_ms {}, silence_ms {}, grace_ms {} and max_extensions {}: times must be "
            "positive, "
            "the last two not negative",
            deadline_ms, patience_ms, silence_ms, grace_ms, max_extensions);
    require(max_samples > 0, "max_samples is {}, but it must be positive", max_samples);
    require(max_norm > 0 && max_norm_ratio > 1,
            "max_norm is {} and max_norm_ratio {}, but they must exceed 0 and 1", max_norm, max_norm_ratio);
    for (const auto& name : names)
      require(is_client_name(name), "'{}' cannot name a client: 1 to 64 letters, digits, '.', '_', '-'",
              name);
    timing.check();
  }
};

/// What a federation is about; the same at every start of a run.
struct RunDescription {
  std::string run;                     ///< its name, 1 to 64 visible ASCII characters
  Json split = Json::object();         ///< the contents of `split.json`
  std::vector<OfferedBlob> offer;      ///< what clients need besides; all of it is in the owner's journal
  Blob global;                         ///< the adapters at the start, in the journal
  Json training = Json::object();      ///< options that bind all clients
  std::uint64_t max_update_bytes = 0;  ///< a larger update is refused unread, > 0; see `most_update_bytes`
};

}  // namespace offsite::federation
