#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "offsite/federation/blob.hpp"
#include "offsite/federation/chunk_bytes.hpp"
#include "offsite/io/json_value.hpp"

/// The protocol between the owner of a model and its clients. A message means the same whenever and however often it
/// arrives: it names the run and the round it is about, so one that is late or comes twice changes nothing.
namespace offsite::federation {

/// Raised when a message changes its meaning; peers of different versions refuse each other in `Hello`.
inline constexpr std::int64_t kProtocolVersion = 1;

/// Most bytes one `Chunk` carries, and one `Want` asks for.
inline constexpr std::uint64_t kMostChunk = 4 << 20;

/// Client to owner, first of all, and again until it is answered.
struct Hello {
  std::int64_t protocol = kProtocolVersion;
  std::string version{};    ///< the program's, for people
  std::uint64_t nonce = 0;  ///< names this attempt; the answer repeats it
  Json split = Json::
      object();  ///< what the client expects of the split: any of its fields; those left out may be anything
  std::int64_t samples = 0;  ///< it has for training

  bool operator==(const Hello&) const = default;
};

/// Owner to client: admitted. What must be fetched before the first round.
struct Welcome {
  std::uint64_t nonce = 0;
  std::string run;
  Json split = Json::object();  ///< the contents of `split.json`
  std::vector<OfferedBlob> offer;
  std::int64_t rounds = 0;

  bool operator==(const Welcome&) const = default;
};

/// Owner to client: no, and why.
struct Refused {
  enum class About {
    kHello,   ///< the client cannot take part
    kStatus,  ///< the owner does not know it: say hello again
    kUpdate,  ///< this round's update does not count; the next round is open to it
  };
  About about = About::kHello;
  std::uint64_t nonce = 0;  ///< of the hello, if it is about one
  std::string run;          ///< else the run
  std::int64_t round = 0;   ///< of the update, if it is about one
  std::string reason;       ///< one sentence

  bool operator==(const Refused&) const = default;
};

/// What a client is doing.
enum class Doing { kFetching, kReady, kTraining, kUploading, kDone };

/// Client to owner, as a sign of life. Whatever was lost before, the answer brings the client up to date.
struct Status {
  std::string run;
  Doing doing = Doing::kReady;
  std::int64_t round = 0;  ///< the last it began, 0 = none

  bool operator==(const Status&) const = default;
};

/// Owner to client: nothing to do now.
struct Wait {
  std::string run;
  std::int64_t over = 0;  ///< rounds up to this one take no update from this client any more
  std::string reason;

  bool operator==(const Wait&) const = default;
};

/// Owner to client: train from these adapters.
struct Round {
  std::string run;
  std::int64_t round = 1;
  Blob global;  ///< a safetensors file of the adapters, float32
  Json training = Json::
      object();  ///< options that bind all clients, a term of the loss among them if the policy names one

  bool operator==(const Round&) const = default;
};

/// Either side: send me these bytes. A receiver asks for no more than it can take, which is the flow control.
struct Want {
  std::string sha256;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;  ///< 1 .. kMostChunk

  bool operator==(const Want&) const = default;
};

/// Either side: the bytes that were wanted.
struct Chunk {
  std::string sha256;
  std::uint64_t offset = 0;
  ChunkBytes bytes;  ///< 1 .. kMostChunk

  bool operator==(const Chunk&) const = default;
};

/// Client to owner: the round's update is ready to be fetched.
struct UpdateReady {
  std::string run;
  std::int64_t round = 1;
  Blob update;               ///< a safetensors file: trained minus received, float32
  std::int64_t samples = 0;  ///< different samples it was trained on: its weight
  std::int64_t steps = 0;
  double loss = 0;  ///< of the training, for people

  bool operator==(const UpdateReady&) const = default;
};

/// Owner to client: the update is on the disk, was checked, and will count once.
struct Accepted {
  std::string run;
  std::int64_t round = 1;
  std::string sha256;

  bool operator==(const Accepted&) const = default;
};

/// Owner to client: the run is over; these are the final adapters.
struct Goodbye {
  std::string run;
  Blob global;
  std::int64_t rounds = 0;  ///< that were aggregated
  std::string error;        ///< why it ended early; empty if it did not

  bool operator==(const Goodbye&) const = default;
};

/// Client to owner: it leaves the run for good.
struct Leave {
  std::string run;
  std::string reason;

  bool operator==(const Leave&) const = default;
};

/// Any message. Its place here is its number on the wire: new ones go to the end.
using Message = std::variant<Hello, Welcome, Refused, Status, Wait, Round, Want, Chunk, UpdateReady, Accepted,
                             Goodbye, Leave>;

/// Names of the messages in their order, for errors.
inline constexpr std::string_view kMessageNames[] = {"hello",        "welcome",  "refused", "status",
                                                     "wait",         "round",    "want",    "chunk",
                                                     "update ready", "accepted", "goodbye", "leave"};

static_assert(std::variant_size_v<Message> == std::size(kMessageNames));

}  // namespace offsite::federation
