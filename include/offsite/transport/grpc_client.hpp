#pragma once
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
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
#include "offsite/transport/grpc_owner.hpp"
#include "offsite/transport/transport.hpp"

namespace offsite {

/// Why a client has no connection.
struct ConnectionProblem {
  std::string sentence;  ///< the peer, what happened, what to look at
  bool final = false;    ///< another attempt would end the same way, so there is none
};

namespace detail {

using ClientReactor = grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>;
using ClientHub = FrameHub<ClientReactor>;

/// What a client knows of its connection; shared with the stream, whose end comes on gRPC's threads.
class ClientConnection {
 public:
  ClientConnection(std::string address, std::string owner_name, GrpcTiming timing)
      : address_(std::move(address)),
        owner_name_(std::move(owner_name)),
        timing_(timing),
        retry_(timing.retry_ms) {}

  [[nodiscard]] std::optional<ConnectionProblem> problem() const {
    const std::lock_guard lock(mutex_);
    return problem_;
  }
  /// Whether a new attempt is due; it counts as begun then.
  [[nodiscard]] bool attempt(Instant now) {
    const std::lock_guard lock(mutex_);
    if (under_way_ || now < next_ || (problem_ && problem_->final)) return false;
    under_way_ = true;
    connected_ = false;
    begun_ = now;
    return true;
  }
  /// Whether the attempt took too long.
  [[nodiscard]] bool late(Instant now) const {
    const std::lock_guard lock(mutex_);
    return under_way_ && !connected_ && now - begun_ > Milliseconds(timing_.connect_ms);
  }
  void connected() {
    const std::lock_guard lock(mutex_);
    connected_ = true;
    begun_ = std::chrono::steady_clock::now();
    problem_.reset();
  }
  void ended(const grpc::Status& status) {
    const std::lock_guard lock(mutex_);
    const auto now = std::chrono::steady_clock::now();
    const auto lasted = std::chrono::duration_cast<Milliseconds>(now - begun_);
    // A connection that held for a while was a good one: the next attempt need not be late.
    if (connected_ && lasted > Milliseconds(10'000)) retry_ = timing_.retry_ms;
    next_ = now + Milliseconds(retry_);
    retry_ = std::min(2 * retry_, timing_.most_retry_ms);
    problem_ = explain(status, static_cast<double>(lasted.count()) / 1000);
    under_way_ = connected_ = false;
  }
  [[nodiscard]] grpc::Status too_late() const {
    return {grpc::StatusCode::DEADLINE_EXCEEDED, formatted("it did not take the connection within {} s",
                                                           static_cast<double>(timing_.connect_ms) / 1000)};
  }

 private:
  [[nodiscard]] ConnectionProblem explain(const grpc::Status& status, double seconds) const {
    const auto& words = status.error_message();
    const auto says = [&](std::string_view text) { return words.find(text) != words.npos; };
    using enum grpc::StatusCode;
    if (const auto code = status.error_code(); code == PERMISSION_DENIED || code == UNAUTHENTICATED ||
                                               code == ALREADY_EXISTS || code == UNIMPLEMENTED)
      return {formatted("the owner at {} refuses this client: {}", address_, words), true};
    if (says("CERTIFICATE_VERIFY_FAILED") || says("certificate verify failed"))
      return {formatted(
                  "the owner at {} has a certificate that this client's authority did not sign: see whether "
                  "address and files belong to the same federation",
                  address_),
              true};
    if (says("Peer name") || says("Hostname Verification"))
      return {formatted("the certificate of {} is not of an owner: it does not hold the name '{}'", address_,
                        owner_name_),
              true};
    if (connected_ && says("keepalive"))
      return {formatted(
          "the owner at {} gave no sign of life for {} s; see whether its machine runs and the network "
          "between",
          address_, static_cast<double>(timing_.keep_alive_ms + timing_.answer_ms) / 1000)};
    if (connected_ && status.ok()) return {formatted("the owner at {} closed the connection", address_)};
    if (connected_)
      return {formatted(
          "the connection to the owner at {} was lost after {:.1f} s: {}; see whether it still runs",
          address_, seconds, words)};
    return {formatted(
        "the owner at {} cannot be reached: {}; see whether it runs there, and whether something on the "
        "way keeps the port closed",
        address_, status.ok() ? "it ended the call" : words)};
  }

  const std::string address_, owner_name_;
  const GrpcTiming timing_;
  mutable std::mutex mutex_;
  std::optional<ConnectionProblem> problem_;
  Instant begun_{}, next_{};
  std::int64_t retry_;
  bool under_way_ = false, connected_ = false;
};

/// The client's end of its stream.
class ClientStream final : public FrameStream<ClientReactor> {
 public:
  ClientStream(std::shared_ptr<ClientHub> hub, std::shared_ptr<ClientConnection> connection)
      : FrameStream(std::move(hub), &context, std::string(federation::kOwner)),
        connection_(std::move(connection)) {}

  void OnReadInitialMetadataDone(bool good) override {
    if (!good) return hub_->stop(shared_from_this(), grpc::Status::OK, false);
    connection_->connected();
    hub_->connected(shared_from_this(), grpc::Status::OK);
  }
  void OnDone(const grpc::Status& status) override {
    // What this end cut off for a reason comes back as cancelled.
    connection_->ended(status_.ok() ? status : status_);
    hub_->done(*this);
  }

  grpc::ClientContext context;

 private:
  std::shared_ptr<ClientConnection> connection_;
};

}  // namespace detail

/// A client's end of a federation over gRPC: one connection to the owner, made and made again while `receive` is called.
///
/// Both ends prove their names by certificates of the same authority. An owner that cannot be reached, or a refusal, is
/// told by `problem()`.
class GrpcClientTransport {
 public:
  /// Does not connect yet. \throws ArgumentError if files or address cannot be used, or credentials are insecure and the
  /// address is of another machine.
  explicit GrpcClientTransport(const GrpcClientOptions& options) : timing_(options.timing) {
    timing_.check();
    detail::check_credentials(options.credentials, options.address);
    const auto [host, port] = detail::split_address(options.address);
    grpc::ChannelArguments arguments;
    detail::set_channel_arguments(timing_, 4 << 20, [&](const char* name, std::int64_t value) {
      arguments.SetInt(name, static_cast<int>(value));
    });
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, static_cast<int>(timing_.connect_ms));
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, static_cast<int>(timing_.retry_ms));
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, static_cast<int>(timing_.most_retry_ms));
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
    if (detail::is_loopback(host)) arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    auto address = options.address;
    std::shared_ptr<grpc::ChannelCredentials> credentials;
    if (const auto* files = std::get_if<TlsFiles>(&options.credentials)) {
      const auto names = check_tls_files(*files, false);
      const auto named = std::find_if(names.begin(), names.end(), federation::is_client_name);
      require(named != names.end(), "the certificate {} holds no name that a client can have",
              files->certificate.string());
      name_ = *named;
      grpc::SslCredentialsOptions pem;
      pem.pem_root_certs = detail::pem_of(files->authority);
      pem.pem_private_key = detail::pem_of(files->key);
      pem.pem_cert_chain = detail::pem_of(files->certificate);
      credentials = grpc::SslCredentials(pem);
      // The authority is the federation's own, and says who is the owner wherever its machine stands.
      if (!options.owner_name.empty()) arguments.SetSslTargetNameOverride(options.owner_name);
    } else {
      name_ = std::get<InsecureLoopback>(options.credentials).name;
      require(federation::is_client_name(name_) && name_ != federation::kOwner,
              "'{}' cannot name a client: 1 to 64 letters, digits, '.', '_', '-', and not 'owner'", name_);
      credentials = grpc::InsecureChannelCredentials();
      insecure_ = true;
      if (host == "localhost") address = "127.0.0.1:" + port;  // nothing is looked up
    }
    channel_ = grpc::CreateCustomChannel(address, credentials, arguments);
    stub_ = std::make_unique<grpc::GenericStub>(channel_);
    hub_ = std::make_shared<detail::ClientHub>(detail::FrameLimits(), detail::Milliseconds(timing_.stall_ms));
    connection_ = std::make_shared<detail::ClientConnection>(
        options.address, options.owner_name.empty() ? host : options.owner_name, timing_);
  }
  GrpcClientTransport(const GrpcClientTransport&) = delete;
  GrpcClientTransport& operator=(const GrpcClientTransport&) = delete;
  /// Lets what was sent leave, for `linger_ms` at most.
  ~GrpcClientTransport() {
    hub_->close(detail::Milliseconds(timing_.linger_ms));
    if (stream_) hub_->stop(stream_, grpc::Status::CANCELLED, true);
    stream_.reset();
    hub_->wait_for_all(detail::Milliseconds(10'000));
  }

  /// This client's name, as its certificate says it.
  [[nodiscard]] const std::string& name() const { return name_; }
  /// Why there is no connection now; none while there is one, or while the first is being made.
  [[nodiscard]] std::optional<ConnectionProblem> problem() const { return connection_->problem(); }

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
    const auto until = std::chrono::steady_clock::now() + detail::Milliseconds(timeout_ms);
    for (;;) {
      const auto now = std::chrono::steady_clock::now();
      if (connection_->attempt(now)) connect();
      if (stream_ && connection_->late(now)) hub_->stop(stream_, connection_->too_late(), true);
      const auto left = std::chrono::ceil<detail::Milliseconds>(until - now);
      auto arrival = hub_->receive(std::clamp(left, detail::Milliseconds(0), detail::Milliseconds(100)));
      if (arrival || now >= until) return arrival;
    }
  }

 private:
  void connect() {
    stream_ = std::make_shared<detail::ClientStream>(hub_, connection_);
    if (insecure_) stream_->context.AddMetadata(detail::kGrpcName, name_);
    grpc::experimental::ChannelResetConnectionBackoff(channel_.get());  // the waits are ours
    hub_->begin(stream_);
    stub_->PrepareBidiStreamingCall(&stream_->context, detail::kGrpcMethod, {}, stream_.get());
    stream_->AddHold();
    stream_->StartCall();
  }

  GrpcTiming timing_;
  std::string name_;
  bool insecure_ = false;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<grpc::GenericStub> stub_;
  std::shared_ptr<detail::ClientHub> hub_;
  std::shared_ptr<detail::ClientConnection> connection_;
  std::shared_ptr<detail::ClientStream> stream_;
};

static_assert(Transport<GrpcClientTransport>);

}  // namespace offsite
