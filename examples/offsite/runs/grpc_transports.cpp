#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "offsite/core/error.hpp"
#include "offsite/runs/transports.hpp"
#include "offsite/transport/grpc.hpp"

namespace program {

using namespace offsite;

namespace {

GrpcCredentials credentials_of(const NetworkArguments& network, const std::string& name) {
  if (network.insecure) return InsecureLoopback{name};
  return tls_files(network.tls);
}

template <class Transport>
AnyTransport any_transport(const std::shared_ptr<Transport>& transport) {
  AnyTransport any;
  any.take = [transport](std::string_view peer, std::vector<std::byte> frame) {
    transport->send(peer, std::move(frame));
  };
  any.take_pieces = [transport](std::string_view peer,
                                std::span<const offsite::federation::SharedBytes> frame) {
    transport->send(peer, frame);
  };
  any.receive = [transport](std::int64_t timeout_ms) { return transport->receive(timeout_ms); };
  return any;
}

}  // namespace

AnyTransport grpc_owner_transport(const NetworkArguments& network, const std::vector<std::string>& names) {
  quiet_grpc_log();
  GrpcOwnerOptions options;
  options.address = network.address;
  options.credentials = credentials_of(network, {});
  options.names = names;
  if (!names.empty()) options.expected_clients = std::ssize(names);
  const auto transport = std::make_shared<GrpcOwnerTransport>(options);
  auto any = any_transport(transport);
  any.notices = [transport] { return transport->take_notices(); };
  any.place = network.address.substr(0, network.address.rfind(':')) + ":" + std::to_string(transport->port());
  return any;
}

AnyTransport grpc_client_transport(const NetworkArguments& network, const std::string& name) {
  quiet_grpc_log();
  GrpcClientOptions options;
  options.address = network.address;
  options.credentials = credentials_of(network, name);
  const auto transport = std::make_shared<GrpcClientTransport>(options);
  require(name.empty() || name == transport->name(), "--name is {}, but the certificate in {} is {}'s", name,
          network.tls.string(), transport->name());
  auto any = any_transport(transport);
  any.notices = [transport, told = std::string()]() mutable {
    const auto problem = transport->problem();
    const auto sentence = problem && !problem->final ? problem->sentence : std::string();
    if (sentence == told || sentence.empty()) return std::vector<std::string>();
    told = sentence;
    return std::vector<std::string>{sentence};
  };
  any.hopeless = [transport] {
    const auto problem = transport->problem();
    return problem && problem->final ? problem->sentence : std::string();
  };
  any.place = network.address;
  return any;
}

}  // namespace program
