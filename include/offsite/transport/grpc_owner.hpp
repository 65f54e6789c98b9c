#pragma once
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/security/auth_context.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/federation/blob.hpp"
#include "offsite/transport/frame_hub.hpp"
#include "offsite/transport/frame_stream.hpp"
#include "offsite/transport/grpc_options.hpp"
#include "offsite/transport/transport.hpp"

namespace offsite {

namespace detail {

/// The one method of the service, and where a client without a certificate says its name.
inline constexpr const char* kGrpcMethod = "/offsite.Federation/Exchange";
inline constexpr const char* kGrpcName = "offsite-name";

using OwnerHub = FrameHub<grpc::ServerGenericBidiReactor>;

/// The owner's end of one client's stream.
class OwnerStream final : public FrameStream<grpc::ServerGenericBidiReactor> {
 public:
  using FrameStream::FrameStream;
  void OnCancel() override { hub_->stop(shared_from_this(), grpc::Status::CANCELLED, false); }
  void OnDone() override { hub_->done(*this); }
};

/// Lets clients in by name.
class OwnerService final : public grpc::CallbackGenericService {
 public:
  OwnerService(std::shared_ptr<OwnerHub> hub, std::vector<std::string> names, bool insecure)
      : hub_(std::move(hub)), names_(std::move(names)), insecure_(insecure) {}

  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext* context) override {
    std::string name;
    auto status = admit(*context, name);
    const auto stream = std::make_shared<OwnerStream>(hub_, context, name);
    hub_->begin(stream);
    if (!status.ok()) {
      hub_->notice(formatted("a client at {} was refused: {}", context->peer(), status.error_message()));
      hub_->stop(stream, status, false);
      return stream.get();
    }
    stream->StartSendInitialMetadata();
    hub_->connected(stream,
                    grpc::Status(grpc::StatusCode::ALREADY_EXISTS,
                                 formatted("another process has connected under the name '{}'", name)));
    return stream.get();
  }

 private:
  /// Whether the client may come, and under which of the names that it proves.
  [[nodiscard]] grpc::Status admit(grpc::GenericCallbackServerContext& context, std::string& name) const {
    if (context.method() != kGrpcMethod)
      return {grpc::StatusCode::UNIMPLEMENTED, "this owner speaks another protocol than " + context.method()};
    const auto proven = names_of(context);
    for (const auto& candidate : proven) {
      if (!federation::is_client_name(candidate) || candidate == federation::kOwner) continue;
      if (!names_.empty() && std::find(names_.begin(), names_.end(), candidate) == names_.end()) continue;
      name = candidate;
      return grpc::Status::OK;
    }
    if (proven.empty()) return {grpc::StatusCode::UNAUTHENTICATED, "it proves no name"};
    return {grpc::StatusCode::PERMISSION_DENIED,
            names_.empty() ? formatted("{} cannot name a client", shown(proven.front()))
                           : formatted("the name {} is not on the list of clients", shown(proven.front()))};
  }
  [[nodiscard]] std::vector<std::string> names_of(const grpc::GenericCallbackServerContext& context) const {
    std::vector<std::string> names;
    if (insecure_) {
      const auto& said = context.client_metadata();
      if (const auto found = said.find(kGrpcName); found != said.end())
        names.emplace_back(found->second.data(), found->second.size());
      return names;
    }
    const auto proof = context.auth_context();
    if (!proof || !proof->IsPeerAuthenticated()) return names;
    for (const auto* property : {"x509_dns", "x509_common_name"})
      for (const auto& value : proof->FindPropertyValues(property))
        names.emplace_back(value.data(), value.size());
    return names;
  }

  std::shared_ptr<OwnerHub> hub_;
  std::vector<std::string> names_;
  bool insecure_;
};

/// A file of a checked end as text.
[[nodiscard]] inline std::string pem_of(const std::filesystem::path& path) {
  return read_pem(path, "a PEM file");
}

/// What both ends tell gRPC: `set(name, value)`.
template <class Set>
void set_channel_arguments(const GrpcTiming& timing, std::int64_t window, Set&& set) {
  set(GRPC_ARG_KEEPALIVE_TIME_MS, timing.keep_alive_ms);
  set(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, timing.answer_ms);
  set(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  set(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // A fixed window instead of one that grows with the measured bandwidth: it bounds what lies here unread.
  set(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  set(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, window);
  // A piece in one frame of HTTP/2, and the next one begun while it leaves: 3 times as fast as 16 KiB at a time.
  set(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, kFramePiece);
  set(GRPC_ARG_HTTP2_WRITE_BUFFER_SIZE, 2 * kFramePiece);
  set(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, kMostFramePiece);
  // A small compressed message could be a large one: none are taken.
  set(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);
}

}  // namespace detail

/// The owner's end of a federation over gRPC: clients connect to it, by mutual TLS.
///
/// A client is who its certificate names: the first of its DNS names and its common name that is in `names` (or that can
/// name a client, if the list is empty). One that connects again takes the place of its older connection. What it holds
/// stays below 64 MiB for up to `expected_clients`: frames are read when there is room for them, and a client's frames
/// wait while answers to it are under way.
class GrpcOwnerTransport {
 public:
  /// Listens. \throws ArgumentError if files cannot be used, the address is in use, or credentials are insecure where
  /// others could connect.
  explicit GrpcOwnerTransport(const GrpcOwnerOptions& options) : timing_(options.timing) {
    timing_.check();
    detail::check_credentials(options.credentials, options.address);
    require(options.expected_clients > 0, "expected_clients is {}, but it must be positive",
            options.expected_clients);
    for (const auto& name : options.names)
      require(federation::is_client_name(name) && name != federation::kOwner,
              "'{}' cannot name a client: 1 to 64 letters, digits, '.', '_', '-', and not 'owner'", name);
    detail::FrameLimits limits;
    limits.most_frame = federation::kPrefixBytes + federation::most_header(0) + federation::kMostChunk +
                        federation::kChecksumBytes;
    hub_ = std::make_shared<detail::OwnerHub>(limits, detail::Milliseconds(timing_.stall_ms));
    const bool insecure = std::holds_alternative<InsecureLoopback>(options.credentials);
    service_ = std::make_unique<detail::OwnerService>(hub_, options.names, insecure);

    grpc::ServerBuilder builder;
    detail::set_channel_arguments(timing_, window(options.expected_clients),
                                  [&](const char* name, std::int64_t value) {
                                    builder.AddChannelArgument(name, static_cast<int>(value));
                                  });
    // Clients ask for signs of life too, while they train and nothing is sent.
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 500);
    builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, static_cast<int>(timing_.connect_ms));
    builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, 4);
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // else two owners would share a port
    builder.RegisterCallbackGenericService(service_.get());
    int port = 0;
    builder.AddListeningPort(listening(options.address, insecure), credentials(options.credentials), &port);
    server_ = builder.BuildAndStart();
    require(server_ != nullptr && port != 0,
            "cannot listen on {}: see whether another process uses that port", options.address);
    port_ = port;
  }
  GrpcOwnerTransport(const GrpcOwnerTransport&) = delete;
  GrpcOwnerTransport& operator=(const GrpcOwnerTransport&) = delete;
  /// Lets what was sent leave, for `linger_ms` at most.
  ~GrpcOwnerTransport() {
    hub_->close(detail::Milliseconds(timing_.linger_ms));
    server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
    hub_->wait_for_all(detail::Milliseconds(10'000));
    server_->Wait();
  }

  /// The port that is listened on.
  [[nodiscard]] int port() const { return port_; }

  void send(std::string_view peer, std::span<const std::byte> frame) {
    send(peer, std::vector<std::byte>(frame.begin(), frame.end()));
  }
  /// The same without a copy.
  void send(std::string_view peer, std::vector<std::byte>&& frame) {
    require(frame.size() <= kMostFrame, "a message of {} bytes is longer than {}", frame.size(), kMostFrame);
    hub_->send(peer, std::move(frame));
  }
  /// The same for a message in pieces, whose memory is kept until they are sent.
  void send(std::string_view peer, std::span<const federation::SharedBytes> frame) {
    const auto size = size_of(frame);
    require(size <= kMostFrame, "a message of {} bytes is longer than {}", size, kMostFrame);
    hub_->send(peer, frame);
  }
  [[nodiscard]] std::optional<Arrival> receive(std::int64_t timeout_ms) {
    return hub_->receive(detail::Milliseconds(timeout_ms));
  }
  /// Bytes of messages that were read and not taken, or are to be sent: 24 MiB at most, but for frames that were sent unasked.
  [[nodiscard]] std::uint64_t held_bytes() const { return hub_->held_bytes(); }
  /// Sentences about clients that were refused or cut off since the last call.
  [[nodiscard]] std::vector<std::string> take_notices() { return hub_->take_notices(); }

 private:
  [[nodiscard]] static std::int64_t window(std::int64_t clients) {
    return std::clamp<std::int64_t>((8 << 20) / clients, 64 << 10, 4 << 20);
  }
  [[nodiscard]] static std::string listening(const std::string& address, bool insecure) {
    const auto [host, port] = detail::split_address(address);
    // Without TLS nothing is looked up: a name could mean an address that others reach.
    return insecure && host == "localhost" ? "127.0.0.1:" + port : address;
  }
  [[nodiscard]] static std::shared_ptr<grpc::ServerCredentials> credentials(const GrpcCredentials& given) {
    const auto* files = std::get_if<TlsFiles>(&given);
    if (files == nullptr) return grpc::InsecureServerCredentials();
    check_tls_files(*files, true);
    grpc::SslServerCredentialsOptions options(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
    options.pem_root_certs = detail::pem_of(files->authority);
    options.pem_key_cert_pairs = {{detail::pem_of(files->key), detail::pem_of(files->certificate)}};
    return grpc::SslServerCredentials(options);
  }

  GrpcTiming timing_;
  std::shared_ptr<detail::OwnerHub> hub_;
  std::unique_ptr<detail::OwnerService> service_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
};

static_assert(Transport<GrpcOwnerTransport>);

}  // namespace offsite
