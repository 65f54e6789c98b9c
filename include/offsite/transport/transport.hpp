#pragma once
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "offsite/federation/chunk_bytes.hpp"
#include "offsite/federation/wire.hpp"

namespace offsite {

/// What a transport has for this end.
struct Arrival {
  enum class Kind { kConnected, kDisconnected, kFrame };
  Kind kind = Kind::kFrame;
  std::string peer;                ///< by the name the transport vouches for
  std::vector<std::byte> frame{};  ///< of a kFrame: one whole message, not looked at yet
};

/// Most bytes a frame may have; a transport refuses longer ones before it reads them.
inline constexpr std::uint64_t kMostFrame = federation::kPrefixBytes + federation::most_header(1) +
                                            federation::kMostChunk + federation::kChecksumBytes;

/// How many bytes pieces of a message have together.
[[nodiscard]] inline std::size_t size_of(std::span<const federation::SharedBytes> pieces) {
  std::size_t size = 0;
  for (const auto& piece : pieces) size += piece.bytes.size();
  return size;
}

namespace detail {

// clang-format off: compilers print a requirement's own line, so its remedy stays on it
template <class T>
concept SendsFrames = requires(T& transport, std::string_view peer, std::span<const std::byte> frame) {
  { transport.send(peer, frame) } -> std::same_as<void>;  // void send(std::string_view peer, std::span<const std::byte> frame)
};
template <class T>
concept ReceivesFrames = requires(T& transport, std::int64_t timeout_ms) {
  { transport.receive(timeout_ms) } -> std::same_as<std::optional<Arrival>>;  // std::optional<Arrival> receive(std::int64_t timeout_ms)
};
// clang-format on

}  // namespace detail

/// Carries whole messages, as bytes, between an owner and its clients.
///
///   `t.send(peer, frame)`     hands a message over, and does not wait for its arrival; to a peer that is not there it
///                             is lost
///   `t.receive(timeout_ms)`   the next thing that arrived, from whichever peer; none after `timeout_ms`
///
/// Semantic requirements: `peer` is who sent a frame, not who it says it is. A client's only peer is "owner". A frame
/// may be lost, doubled or late, but a transport should lose none while a connection lasts. Frames longer than
/// `kMostFrame` are not taken. Errors of a connection are a disconnection, not an exception.
template <class T>
concept Transport = detail::SendsFrames<T> && detail::ReceivesFrames<T>;

}  // namespace offsite
