#include "offsite/runs/transports.hpp"

#include <memory>
#include <string>

#include "offsite/core/error.hpp"
#include "offsite/federation/blob.hpp"
#include "offsite/transport/directory.hpp"

namespace program {

using namespace offsite;

namespace {

AnyTransport directory_transport(const Path& folder, const std::string& self) {
  const auto directory = std::make_shared<DirectoryTransport>(folder, self);
  AnyTransport transport;
  transport.take = [directory](std::string_view peer, const std::vector<std::byte>& frame) {
    directory->send(peer, frame);
  };
  transport.receive = [directory](std::int64_t timeout_ms) { return directory->receive(timeout_ms); };
  transport.place = folder.string();
  return transport;
}

void check_one_way(const NetworkArguments& network, const char* option) {
  require(network.directory.empty() != network.address.empty(),
          "either {} HOST:PORT or --directory DIR must be given: how owner and clients reach each other",
          option);
  require(
      network.address.empty() || network.tls.empty() == network.insecure,
      "{} needs --tls DIR, the certificates that offsite certificates makes; or, between processes of one "
      "machine, --insecure",
      option);
  require(network.directory.empty() || (network.tls.empty() && !network.insecure),
          "--tls and --insecure are for connections, but --directory was given");
}

}  // namespace

AnyTransport owner_transport(const NetworkArguments& network, const std::vector<std::string>& names) {
  check_one_way(network, "--listen");
  if (!network.address.empty()) return grpc_owner_transport(network, names);
  return directory_transport(network.directory, std::string(federation::kOwner));
}

AnyTransport client_transport(const NetworkArguments& network, const std::string& name) {
  check_one_way(network, "--owner");
  require(!name.empty() || !network.tls.empty(),
          "--name is needed: what the owner knows this client by; only a certificate says it otherwise");
  require(name != federation::kOwner, "--name is owner, but that is the owner's");
  if (!network.address.empty()) return grpc_client_transport(network, name);
  return directory_transport(network.directory, name);
}

}  // namespace program
