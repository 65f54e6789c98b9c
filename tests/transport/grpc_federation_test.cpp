#include <string>

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
