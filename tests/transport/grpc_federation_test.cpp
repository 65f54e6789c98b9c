#include <cstddef>
#include <string>
#include <vector>

#include "federation/two_rounds.hpp"
#include "offsite/transport/grpc.hpp"
#include "transport/tls_world.hpp"

#include "support/test.hpp"

using namespace offsite;

TEST_CASE("gRPC transport: a run of two rounds, by mutual TLS") {
  const TlsWorld world{"lab-a", "lab-b"};
  const auto owner_end = [&] {
    return GrpcOwnerTransport(
        {.address = "127.0.0.1:0", .credentials = world.files("owner"), .names = {"lab-a", "lab-b"}});
  };
  const auto client_end = [&](const std::string& name, const GrpcOwnerTransport& owner) {
    return GrpcClientTransport(
        {.address = "127.0.0.1:" + std::to_string(owner.port()), .credentials = world.files(name)});
  };
  two_rounds::run_two_rounds(owner_end, client_end, {500, 10'000, 512, 2048});
}

TEST_CASE("gRPC transport: 64 clients at once, each by mutual TLS, whose updates all count") {
  constexpr std::size_t kClients = 64;
  std::vector<std::string> names;
  for (std::size_t i = 0; i < kClients; ++i) names.push_back("lab-" + std::to_string(100 + i));
  TlsWorld world{};
  for (const auto& name : names) issue_certificate(world.folder(), {name});
  const auto owner_end = [&] {
    return GrpcOwnerTransport(
        {.address = "127.0.0.1:0", .credentials = world.files("owner"), .names = names});
  };
  const auto client_end = [&](const std::string& name, const GrpcOwnerTransport& owner) {
    return GrpcClientTransport(
        {.address = "127.0.0.1:" + std::to_string(owner.port()), .credentials = world.files(name)});
  };
  two_rounds::run_rounds(owner_end, client_end, {2000, 10'000, 512, 2048}, names, 1);
}
