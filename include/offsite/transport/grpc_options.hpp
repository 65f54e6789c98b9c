#pragma once
#include <arpa/inet.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/federation/blob.hpp"
#include "offsite/transport/certificates.hpp"

namespace offsite {

/// No encryption and no proof of names: between processes of one machine only, e.g. to try something out.
struct InsecureLoopback {
  std::string name{};  ///< the client's; an owner needs none
};

/// How an end proves who it is: by mutual TLS, or not at all.
using GrpcCredentials = std::variant<TlsFiles, InsecureLoopback>;

/// Waits of a connection, in milliseconds, all > 0.
struct GrpcTiming {
  std::int64_t keep_alive_ms = 10'000;  ///< of silence before a peer is asked for a sign of life
  std::int64_t answer_ms = 10'000;      ///< for that sign, before the connection counts as lost
  std::int64_t connect_ms = 20'000;     ///< for an owner to take a connection
  std::int64_t stall_ms = 60'000;       ///< for a message that was begun, or a piece of one to leave
  std::int64_t linger_ms = 5'000;       ///< for the last messages to leave, at the end
  std::int64_t retry_ms = 500;  ///< before the first new attempt to connect; doubles up to `most_retry_ms`
  std::int64_t most_retry_ms = 15'000;

  /// \throws ArgumentError if one is not positive.
  void check() const {
    for (const auto value :
         {keep_alive_ms, answer_ms, connect_ms, stall_ms, linger_ms, retry_ms, most_retry_ms})
      require(value > 0 && value < 1'000'000'000,
              "a wait of a connection is {} ms, but it must be 1 to 999999999", value);
  }
};

struct GrpcOwnerOptions {
  std::string address = "0.0.0.0:7811";  ///< to listen on, host:port; port 0 takes a free one
  GrpcCredentials credentials{};
  std::vector<std::string> names{};    ///< clients that may come; empty = all whom the authority signed
  std::int64_t expected_clients = 64;  ///< at once; the more, the smaller each one's buffer, > 0
  GrpcTiming timing{};
};

struct GrpcClientOptions {
  std::string address{};  ///< of the owner, host:port
  GrpcCredentials credentials{};
  std::string owner_name =
      std::string(federation::kOwner);  ///< in its certificate; empty = the host of `address`
  GrpcTiming timing{};
};

namespace detail {

struct HostAndPort {
  std::string host;  ///< without brackets
  std::string port;
};

/// \throws ArgumentError unless it is host:port, with brackets around an IPv6 address.
[[nodiscard]] inline HostAndPort split_address(std::string_view address) {
  const auto colon = address.rfind(':');
  require(colon != address.npos && colon > 0, "the address '{}' is not of the form host:port", address);
  auto host = address.substr(0, colon);
  const auto port = address.substr(colon + 1);
  bool good = !port.empty() && port.size() <= 5 && port.find_first_not_of("0123456789") == port.npos;
  if (good) good = std::stoi(std::string(port)) <= 65535;
  require(good, "the address '{}' ends in no port: a number up to 65535", address);
  if (host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else {
    require(host.find(':') == host.npos, "the address '{}' needs brackets around its IPv6 address", address);
  }
  require(!host.empty() && host.find('/') == host.npos, "the address '{}' is not of the form host:port",
          address);
  return {std::string(host), std::string(port)};
}

/// Whether what is sent to `host` stays on this machine, by its name alone.
[[nodiscard]] inline bool is_loopback(const std::string& host) {
  std::array<unsigned char, 16> bytes{};
  if (::inet_pton(AF_INET, host.c_str(), bytes.data()) == 1) return bytes[0] == 127;
  if (::inet_pton(AF_INET6, host.c_str(), bytes.data()) == 1)
    return host == "::1" || (bytes[15] == 1 && std::count(bytes.begin(), bytes.end(), 0) == 15);
  return host == "localhost";
}

/// \throws ArgumentError if credentials prove nothing and the address is one that others reach.
inline void check_credentials(const GrpcCredentials& credentials, const std::string& address) {
  const auto host = split_address(address).host;
  require(
      std::holds_alternative<TlsFiles>(credentials) || is_loopback(host),
      "without TLS only a loopback address can be used, such as 127.0.0.1, but {} is none: make certificates "
      "(offsite certificates)",
      address);
}

}  // namespace detail
}  // namespace offsite
