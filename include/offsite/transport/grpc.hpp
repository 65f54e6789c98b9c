#pragma once
/// Owner and clients over gRPC with mutual TLS. Needs gRPC (libgrpc++-dev); part of no other header.
#include <grpc/support/log.h>

#include <cstdlib>

#include "offsite/transport/certificates.hpp"
#include "offsite/transport/frame_hub.hpp"
#include "offsite/transport/frame_stream.hpp"
#include "offsite/transport/grpc_client.hpp"
#include "offsite/transport/grpc_options.hpp"
#include "offsite/transport/grpc_owner.hpp"

namespace offsite {

/// Keeps gRPC from printing lines of its own, in all of the process, unless GRPC_VERBOSITY asks for them.
inline void quiet_grpc_log() {
  if (std::getenv("GRPC_VERBOSITY") == nullptr)
    ::gpr_set_log_verbosity(static_cast<gpr_log_severity>(GPR_LOG_SEVERITY_ERROR + 1));
}

}  // namespace offsite
