#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "offsite/runs/arguments.hpp"
#include "offsite/transport/transport.hpp"

namespace program {

/// A transport that was chosen on the command line.
struct AnyTransport {
  std::function<void(std::string_view peer, std::vector<std::byte> frame)> take;
  /// The same for a message in pieces, where the transport can leave them where they lie.
  std::function<void(std::string_view peer, std::span<const offsite::federation::SharedBytes> frame)>
      take_pieces{};
  std::function<std::optional<offsite::Arrival>(std::int64_t timeout_ms)> receive{};
  /// Sentences for people about connections, since the last call.
  std::function<std::vector<std::string>()> notices = [] { return std::vector<std::string>(); };
  /// Why there will never be a connection, once that is known.
  std::function<std::string()> hopeless = [] { return std::string(); };
  std::string place;  ///< where the owner is found, for people

  void send(std::string_view peer, std::span<const std::byte> frame) const {
    take(peer, {frame.begin(), frame.end()});
  }
  /// The same without a copy, where the transport needs none.
  void send(std::string_view peer, std::vector<std::byte>&& frame) const { take(peer, std::move(frame)); }
  void send(std::string_view peer, std::span<const offsite::federation::SharedBytes> pieces) const {
    if (take_pieces) return take_pieces(peer, pieces);
    std::vector<std::byte> frame;
    frame.reserve(offsite::size_of(pieces));
    for (const auto& piece : pieces) frame.insert(frame.end(), piece.bytes.begin(), piece.bytes.end());
    take(peer, std::move(frame));
  }
};

static_assert(offsite::Transport<AnyTransport>);

/// The owner's end. \param names  of clients that may come; empty = all whom the transport lets in
/// \throws offsite::ArgumentError unless one way was named, and can be used.
[[nodiscard]] AnyTransport owner_transport(const NetworkArguments& network,
                                           const std::vector<std::string>& names);
/// A client's end. \throws offsite::ArgumentError as `owner_transport`.
[[nodiscard]] AnyTransport client_transport(const NetworkArguments& network, const std::string& name);

/// Those over gRPC; they refuse where the program was built without it.
[[nodiscard]] AnyTransport grpc_owner_transport(const NetworkArguments& network,
                                                const std::vector<std::string>& names);
[[nodiscard]] AnyTransport grpc_client_transport(const NetworkArguments& network, const std::string& name);

}  // namespace program
