#pragma once
#include <grpcpp/client_context.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/client_callback.h>
#include <grpcpp/support/slice.h>
#include <grpcpp/support/status.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "offsite/transport/transport.hpp"

/// Frames over gRPC streams of bytes. A frame travels as pieces of at most `kFramePiece` bytes, each one gRPC message; the
/// first begins with the frame's length, eight bytes, little-endian. So a receiver knows what a frame takes before it
/// takes it, and lets the sender wait: by not reading, which HTTP/2's flow control passes on.
namespace offsite::detail {

using Milliseconds = std::chrono::milliseconds;
using Instant = std::chrono::steady_clock::time_point;

/// Most bytes of a frame in one gRPC message.
inline constexpr std::size_t kFramePiece = 512 << 10;
/// Of a frame's first one, which a receiver takes from everybody before it knows whether there is room for the frame.
inline constexpr std::size_t kFirstPiece = 16 << 10;
inline constexpr std::size_t kLengthBytes = 8;
/// Most bytes of one gRPC message.
inline constexpr int kMostFramePiece = static_cast<int>(kFramePiece + kLengthBytes);

/// What one end may hold of frames that were read and not taken, or are to be sent; one frame more of each at most.
struct FrameLimits {
  std::uint64_t most_frame = kMostFrame;  ///< that a peer may send
  std::uint64_t inbox = 8 << 20;          ///< of all peers together
  std::uint64_t inbox_of_peer = 4 << 20;  ///< before no more of this peer is read
  std::uint64_t outbox = 8 << 20;  ///< of all peers together, before frames wait that could ask for more
  std::uint64_t outbox_of_peer = 4 << 20;              ///< of one, likewise
  std::uint64_t most_outbox = kMostFrame + (8 << 20);  ///< of one; frames beyond are lost
};

/// A part of a frame, which keeps the memory that it lies in until gRPC has sent it.
[[nodiscard]] inline grpc::Slice slice_of(const std::shared_ptr<const void>& memory,
                                          std::span<const std::byte> part) {
  using Owner = std::shared_ptr<const void>;
  // gRPC takes a pointer that is not to const, and only reads.
  return grpc::Slice(
      const_cast<std::byte*>(part.data()), part.size(),
      [](void* owner) { delete static_cast<Owner*>(owner); }, new Owner(memory));
}

/// A frame's pieces, none of whose bytes are copied. \param length  of the frame
[[nodiscard]] inline std::deque<grpc::ByteBuffer> pieces_of(std::span<const federation::SharedBytes> frame,
                                                            std::uint64_t length) {
  std::array<unsigned char, kLengthBytes> prefix{};
  for (std::size_t i = 0; i < prefix.size(); ++i) prefix[i] = static_cast<unsigned char>(length >> (8 * i));
  std::vector<grpc::Slice> slices{grpc::Slice(prefix.data(), prefix.size())};
  std::size_t room = kFirstPiece;  // of the piece that `slices` become
  std::deque<grpc::ByteBuffer> pieces;
  for (const auto& part : frame) {
    for (std::size_t at = 0, size = 0; at < part.bytes.size(); at += size) {
      size = std::min(room, part.bytes.size() - at);
      slices.push_back(slice_of(part.owner, part.bytes.subspan(at, size)));
      room -= size;
      if (room > 0) continue;
      pieces.emplace_back(slices.data(), slices.size());
      slices.clear();
      room = kFramePiece;
    }
  }
  if (!slices.empty()) pieces.emplace_back(slices.data(), slices.size());
  return pieces;
}

template <class Reactor>
class FrameHub;

/// One stream: a gRPC reactor whose state the hub guards. Everything that gRPC lets one do to a stream is done by one
/// thread at a time (see `FrameHub::drive`), so nothing is started after its end.
template <class Reactor>
class FrameStream : public Reactor, public std::enable_shared_from_this<FrameStream<Reactor>> {
 public:
  static constexpr bool kServer = std::is_same_v<Reactor, grpc::ServerGenericBidiReactor>;
  using Context = std::conditional_t<kServer, grpc::CallbackServerContext, grpc::ClientContext>;

  FrameStream(std::shared_ptr<FrameHub<Reactor>> hub, Context* context, std::string peer)
      : hub_(std::move(hub)), context_(context), peer_(std::move(peer)) {}

  [[nodiscard]] const std::string& peer() const { return peer_; }

  void OnReadDone(bool good) override { hub_->read_done(*this, good); }
  void OnWriteDone(bool good) override { hub_->write_done(*this, good); }

 protected:
  friend class FrameHub<Reactor>;

  std::shared_ptr<FrameHub<Reactor>> hub_;
  std::shared_ptr<FrameStream> self_;  // until gRPC is done with it
  Context* context_;
  std::string peer_;

  // Reading
  grpc::ByteBuffer incoming_;
  std::vector<std::byte> partial_;  // touched without the lock by who reads
  std::uint64_t expected_ = 0;      // bytes of the frame that is being read; 0 between frames
  bool reading_ = false, admitted_ = false, waiting_ = false;
  Instant admittance_{};  // when the frame was let in
  std::deque<std::vector<std::byte>> ready_;
  std::uint64_t ready_bytes_ = 0;

  // Writing
  std::deque<grpc::ByteBuffer> outbound_;
  std::uint64_t outbound_bytes_ = 0;
  grpc::ByteBuffer outgoing_;
  std::uint64_t outgoing_bytes_ = 0;
  bool writing_ = false;
  Instant written_{};  // the beginning of the write that is under way

  // The end
  bool closing_ = false;  // what is queued is still sent, then the stream is half closed
  bool half_closed_ = false;
  bool ending_ = false;    // nothing more is sent or read
  bool cancel_ = false;    // by gRPC's cancellation, which reaches the peer at once
  bool finished_ = false;  // gRPC was told
  bool driving_ = false;
  grpc::Status status_;  // that the server ends with
};

}  // namespace offsite::detail
