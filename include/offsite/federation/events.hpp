#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "offsite/federation/journal.hpp"
#include "offsite/federation/messages.hpp"

/// What goes into the state machines of owner and client, and what comes out.
///
/// A machine has no clock, sockets, files or threads: `handle(event)` returns actions. Whoever runs it carries them
/// out **in order**; if one fails (a full disk), the rest is dropped and so is the machine: a new one is built from the
/// journal. So there is one way to recover, and it is the way of every start.
namespace offsite::federation {

/// The time, at least once a second, from any clock: only steps forward count, and no step for more than
/// `Timing::longest_step_ms`, so a clock that jumps shortens or lengthens a wait a little and does no harm.
struct Tick {
  std::int64_t now_ms = 0;
};
/// A message that was decoded. \param peer  a client's name as the transport vouches for it
struct Arrived {
  std::string peer;
  Message message;
};
struct Connected {
  std::string peer;
};
struct Disconnected {
  std::string peer;
};
/// The answer to `OpenPart`.
struct PartOpened {
  std::string peer;
  Blob blob;
  std::uint64_t have = 0;  ///< bytes from the beginning that are there already
  bool complete = false;   ///< all of it is there, checked
};
/// The answer to `FinishPart`: whether the bytes have the blob's hash. If not, they are gone.
struct PartFinished {
  std::string peer;
  Blob blob;
  bool good = false;
};
/// The answer to `CheckUpdate`. `error` is empty if the tensors are what the run trains, and finite.
struct Checked {
  std::string peer;
  std::string sha256;
  double norm = 0;
  std::string error;
};
/// The answer to `Aggregate`, unless `error` says why there is none.
struct Aggregated {
  std::int64_t round = 0;
  Blob global;
  std::string policy_state;  ///< SHA-256 of the policy's state in the journal; empty if it has none
  std::string error;
};
/// The answer to `Score`.
struct Scored {
  std::string sha256;
  double loss = 0;  ///< on the owner's held-out data, smaller is better: rounds are kept by it
  std::string error;
  std::optional<double> accuracy{};  ///< 0..1, where the data has choices: for people
};
/// The answer to `Install`.
struct Installed {
  std::string run;
  std::string error;
};
/// The answer to `Train`.
struct Trained {
  std::int64_t round = 0;
  Blob update;
  std::int64_t samples = 0;
  std::int64_t steps = 0;
  double loss = 0;
  std::string error;
};

using Event = std::variant<Tick, Arrived, Connected, Disconnected, PartOpened, PartFinished, Checked,
                           Aggregated, Scored, Installed, Trained>;

struct Send {
  std::string peer;
  Message message;
};
/// Read these bytes of a blob in the journal and send them.
struct SendChunk {
  std::string peer;
  Want want;
};
/// Write this, durably, before any later action.
struct Write {
  Record record;
};
/// How much of a blob is there? Answered by `PartOpened`. \param reuse  a blob that is there already will do
struct OpenPart {
  std::string peer;
  Blob blob;
  bool reuse = true;
};
/// Append these bytes of a blob that is being received.
struct WritePart {
  std::string peer;
  Blob blob;
  std::uint64_t offset = 0;
  ChunkBytes bytes;
};
/// All bytes are there: check the hash, and make them a blob. Answered by `PartFinished`.
struct FinishPart {
  std::string peer;
  Blob blob;
};
/// What came of a blob from that peer is not wanted any more.
struct DropPart {
  std::string peer;
  Blob blob;
};
/// Nobody needs this blob any more.
struct DropBlob {
  std::string sha256;
};
/// Look at every tensor of an update; see `check_update`. Answered by `Checked`.
struct CheckUpdate {
  std::string peer;
  std::string sha256;
};
/// An update that takes part in a round.
struct CountedUpdate {
  std::string client;
  std::string sha256;
  double weight = 1;
};
/// Make the next adapters of these. Answered by `Aggregated`.
struct Aggregate {
  std::int64_t round = 0;
  std::string global;                  ///< SHA-256 of the adapters
  std::string policy_state;            ///< as the last kept round left it; empty at first
  std::vector<CountedUpdate> updates;  ///< by client's name
};
/// Plug these adapters in and score the model. Answered by `Scored`.
struct Score {
  std::string sha256;
};
/// Build the sub-model of the offer, all of whose blobs are in the journal. Answered by `Installed`.
struct Install {
  Welcome welcome;
};
/// Train from the adapters in the journal. Answered by `Trained`.
struct Train {
  Round round;
};
/// The answer of a training that still runs is not wanted any more.
struct CancelTraining {
  std::int64_t round = 0;
};
/// Tell the user.
struct Notice {
  std::string text;
};
/// The machine is at its end. \param error  one sentence; empty if all went well
struct Finish {
  std::string error;
};

using Action = std::variant<Send, SendChunk, Write, OpenPart, WritePart, FinishPart, DropPart, DropBlob,
                            CheckUpdate, Aggregate, Score, Install, Train, CancelTraining, Notice, Finish>;
using Actions = std::vector<Action>;

/// What suits a connection: a chunk is taken while the next one comes, within what a transport holds of one peer. Two of
/// `kMostChunk` would come in turns.
inline constexpr std::uint64_t kNetworkChunk = 2 << 20;

/// Waits that owner and client have in common, in milliseconds of the machine's time.
struct Timing {
  std::int64_t retry_ms = 5'000;          ///< what was asked and not answered is asked again, > 0
  std::int64_t longest_step_ms = 10'000;  ///< most that one tick may add, > 0
  std::uint64_t chunk_bytes = 1 << 20;    ///< 1 .. kMostChunk
  std::uint64_t window_bytes = 16 << 20;  ///< asked for and not received, at most, >= chunk_bytes

  /// \throws ArgumentError naming the first that is out of its range.
  void check() const {
    require(retry_ms > 0 && longest_step_ms > 0,
            "retry_ms is {} and longest_step_ms {}, but both must be positive", retry_ms, longest_step_ms);
    require(0 < chunk_bytes && chunk_bytes <= kMostChunk, "chunk_bytes is {}, but it must be 1 to {}",
            chunk_bytes, kMostChunk);
    require(window_bytes >= chunk_bytes, "window_bytes is {}, but a chunk takes {}", window_bytes,
            chunk_bytes);
  }
};

/// A machine's own time: the sum of the steps forward, none longer than a bound.
class MachineClock {
 public:
  void tick(std::int64_t now_ms, std::int64_t longest_step) {
    if (known_ && now_ms > last_) now_ += std::min(now_ms - last_, longest_step);
    known_ = true;
    last_ = now_ms;
  }
  [[nodiscard]] std::int64_t now() const { return now_; }

 private:
  bool known_ = false;
  std::int64_t last_ = 0, now_ = 0;
};

}  // namespace offsite::federation
