// What connections are where gRPC was missing when the program was built.
#include "offsite/core/error.hpp"
#include "offsite/runs/transports.hpp"

namespace program {

namespace {
[[noreturn]] void refuse() {
  throw offsite::Error(
      "this program was built without gRPC, which connections need: install libgrpc++-dev and build it "
      "again, or "
      "use --directory");
}
}  // namespace

AnyTransport grpc_owner_transport(const NetworkArguments&, const std::vector<std::string>&) { refuse(); }
AnyTransport grpc_client_transport(const NetworkArguments&, const std::string&) { refuse(); }

}  // namespace program
