#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/federation/chunk_bytes.hpp"
#include "offsite/federation/message_fields.hpp"
#include "offsite/federation/messages.hpp"
#include "offsite/io/json.hpp"
#include "offsite/io/sha256.hpp"
#include "offsite/io/xxh64.hpp"

namespace offsite::federation {

/// How a message lies in bytes:
///
///   0   4  "OFFT"
///   4   1  version of this layout, 2
///   5   1  number of the message
///   6   2  zero
///   8   4  bytes of the header, little-endian
///   12  4  bytes of the payload, little-endian
///   16     header: a JSON object
///          payload: a chunk's bytes, else nothing
///      32  SHA-256 of prefix and header, and of the payload's XXH64, eight bytes, little-endian, if there is a payload
///
/// The checksum finds damage, not forgery: that is the transport's task. A blob's own hash is checked besides, so the
/// payload needs no second pass of SHA-256 here.
inline constexpr std::array<char, 4> kMagic{'O', 'F', 'F', 'T'};
inline constexpr std::uint8_t kWireVersion = 2;  // 1 summed a payload by SHA-256 like the rest
inline constexpr std::size_t kPrefixBytes = 16;
inline constexpr std::size_t kChecksumBytes = 32;

/// Most bytes a message's header may have: a welcome lists every tensor, a hello the expected split.
[[nodiscard]] constexpr std::uint64_t most_header(std::size_t kind) {
  constexpr std::uint64_t kKiB = 1024;
  return kind == 1 ? 16 * kKiB * kKiB : kind == 0 ? 256 * kKiB : 64 * kKiB;
}

namespace detail {

/// The checksum of a message that begins with `head`, its prefix and header.
[[nodiscard]] inline std::array<std::byte, kChecksumBytes> checksum(std::span<const std::byte> head,
                                                                    std::span<const std::byte> payload) {
  Sha256 sha256;
  sha256.update(head);
  if (!payload.empty()) {
    const std::uint64_t sum = xxh64(payload);
    sha256.update(std::as_bytes(std::span(&sum, 1)));
  }
  const auto hex = sha256.hex();
  const auto digit = [](char c) { return c <= '9' ? c - '0' : c - 'a' + 10; };
  std::array<std::byte, kChecksumBytes> sum{};
  for (std::size_t i = 0; i < sum.size(); ++i)
    sum[i] = static_cast<std::byte>(digit(hex[2 * i]) * 16 + digit(hex[2 * i + 1]));
  return sum;
}
/// The checksum of all that comes before it in a message; of bytes that are no message, of all of them.
[[nodiscard]] inline std::array<std::byte, kChecksumBytes> checksum(std::span<const std::byte> bytes) {
  std::uint32_t payload = 0;
  if (bytes.size() >= kPrefixBytes) std::memcpy(&payload, bytes.data() + 12, sizeof payload);
  if (payload > bytes.size() - std::min(bytes.size(), kPrefixBytes)) payload = 0;
  return checksum(bytes.first(bytes.size() - payload), bytes.last(payload));
}

template <class... Args>
void check_message(bool good, std::string_view peer,
                   std::type_identity_t<offsite::detail::FieldText<sizeof...(Args)>> problem,
                   const Args&... args) {
  if (!good)
    throw ProtocolError("a message from " + offsite::detail::shown(peer) + " is refused: " +
                        offsite::detail::format_fields(problem.get(), {TextArgument(args)...}));
}

/// The message of number `kind` from its header; all but a chunk's bytes.
template <std::size_t I = 0>
[[nodiscard]] Message message_from(std::size_t kind, const offsite::detail::HostileObject& fields) {
  if constexpr (I < std::variant_size_v<Message>) {
    if (kind != I) return message_from<I + 1>(kind, fields);
    std::variant_alternative_t<I, Message> message;
    read_fields(fields, message);
    return message;
  } else {
    throw ProtocolError("an unknown message");  // its number was checked before
  }
}

/// A message's prefix and header, in memory that has room for all of it but `payload`.
[[nodiscard]] inline std::vector<std::byte> encode_head(const Message& message, std::size_t payload,
                                                        std::size_t room) {
  const auto header = std::visit([](const auto& m) { return write_fields(m); }, message).dump();
  require(header.size() <= most_header(message.index()),
          "the message '{}' takes {} bytes, but at most {} are allowed", kMessageNames[message.index()],
          header.size(), most_header(message.index()));
  require(payload <= kMostChunk, "a chunk of {} bytes is larger than the {} that are allowed", payload,
          kMostChunk);
  std::vector<std::byte> out;
  out.reserve(kPrefixBytes + header.size() + room);
  const auto append = [&](const void* data, std::size_t bytes) {
    const auto* first = static_cast<const std::byte*>(data);
    out.insert(out.end(), first, first + bytes);
  };
  const std::array<std::uint8_t, 4> kind{kWireVersion, static_cast<std::uint8_t>(message.index()), 0, 0};
  const std::array<std::uint32_t, 2> sizes{static_cast<std::uint32_t>(header.size()),
                                           static_cast<std::uint32_t>(payload)};
  append(kMagic.data(), kMagic.size());
  append(kind.data(), kind.size());
  append(sizes.data(), sizeof sizes);
  append(header.data(), header.size());
  return out;
}

[[nodiscard]] inline std::vector<std::byte> encode(const Message& message,
                                                   std::span<const std::byte> payload) {
  auto out = encode_head(message, payload.size(), payload.size() + kChecksumBytes);
  const auto sum = checksum(out, payload);
  out.insert(out.end(), payload.begin(), payload.end());
  out.insert(out.end(), sum.begin(), sum.end());
  return out;
}

/// A message but for a chunk's bytes, and where those lie.
struct DecodedMessage {
  Message message;
  std::size_t payload_begin = 0, payload_end = 0;
};

[[nodiscard]] inline DecodedMessage decode_but_payload(std::span<const std::byte> bytes,
                                                       std::string_view peer) {
  check_message(bytes.size() >= kPrefixBytes + kChecksumBytes, peer,
                "it has {} bytes, but the shortest has {}", bytes.size(), kPrefixBytes + kChecksumBytes);
  check_message(std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) == 0, peer,
                "it does not begin with OFFT");
  const auto version = std::to_integer<unsigned>(bytes[4]);
  const auto kind = std::to_integer<std::size_t>(bytes[5]);
  check_message(
      version == kWireVersion, peer,
      "its layout is of version {}, but this reads version {}: both ends need the same version of offsite",
      version, kWireVersion);
  check_message(kind < std::variant_size_v<Message>, peer, "its number {} is unknown", kind);
  check_message(bytes[6] == std::byte{0} && bytes[7] == std::byte{0}, peer, "bytes 6 and 7 are not zero");
  std::array<std::uint32_t, 2> sizes{};
  std::memcpy(sizes.data(), bytes.data() + 8, sizeof sizes);
  const std::uint64_t header = sizes[0], payload = sizes[1];
  check_message(header <= most_header(kind), peer, "its header claims {} bytes, but at most {} are allowed",
                header, most_header(kind));
  const std::uint64_t most_payload = kMessageNames[kind] == "chunk" ? kMostChunk : 0;
  check_message(payload <= most_payload, peer, "its payload claims {} bytes, but at most {} are allowed",
                payload, most_payload);
  check_message(kPrefixBytes + header + payload + kChecksumBytes == bytes.size(), peer,
                "it claims {} bytes, but has {}", kPrefixBytes + header + payload + kChecksumBytes,
                bytes.size());
  const auto body = bytes.first(bytes.size() - kChecksumBytes);
  const auto sum = checksum(body);
  check_message(std::memcmp(sum.data(), bytes.data() + body.size(), sum.size()) == 0, peer,
                "its checksum does not fit its bytes");

  const auto what = formatted("the message '{}' from {}", kMessageNames[kind], offsite::detail::shown(peer));
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + kPrefixBytes, header);
  const auto json = parse_json(text, what);
  auto message = message_from(kind, offsite::detail::HostileObject(json, what));
  check_message(payload > 0 || !std::holds_alternative<Chunk>(message), peer, "it is a chunk of no bytes");
  return {std::move(message), kPrefixBytes + header, kPrefixBytes + header + payload};
}

}  // namespace detail

/// A message as bytes. \throws ArgumentError if it is larger than the protocol allows, or a text is not UTF-8.
[[nodiscard]] inline std::vector<std::byte> encode(const Message& message) {
  const auto* chunk = std::get_if<Chunk>(&message);
  return detail::encode(message, chunk != nullptr ? chunk->bytes.span() : std::span<const std::byte>());
}
/// A chunk as bytes, whose own lie elsewhere. \throws ArgumentError as `encode`.
[[nodiscard]] inline std::vector<std::byte> encode_chunk(const std::string& sha256, std::uint64_t offset,
                                                         std::span<const std::byte> bytes) {
  return detail::encode(Chunk{sha256, offset, {}}, bytes);
}
/// The same in pieces that follow each other, without a copy of the chunk's own.
[[nodiscard]] inline std::array<SharedBytes, 3> encode_chunk(const std::string& sha256, std::uint64_t offset,
                                                             SharedBytes chunk) {
  auto encoded = detail::encode_head(Chunk{sha256, offset, {}}, chunk.bytes.size(), kChecksumBytes);
  const auto sum = detail::checksum(encoded, chunk.bytes);
  const auto head = encoded.size();
  encoded.insert(encoded.end(), sum.begin(), sum.end());
  const auto kept = std::make_shared<const std::vector<std::byte>>(std::move(encoded));
  const auto around = std::span(*kept);
  return {SharedBytes{around.first(head), kept}, std::move(chunk), SharedBytes{around.subspan(head), kept}};
}

/// The message these bytes are, checked from the first to the last; nothing larger than they are is allocated on a
/// claim they make. \param peer  who sent them, for errors
/// \throws ProtocolError with one sentence that says what is wrong.
[[nodiscard]] inline Message decode(std::span<const std::byte> bytes, std::string_view peer) {
  auto decoded = detail::decode_but_payload(bytes, peer);
  if (auto* chunk = std::get_if<Chunk>(&decoded.message)) {
    const auto payload = bytes.first(decoded.payload_end).subspan(decoded.payload_begin);
    chunk->bytes = std::vector<std::byte>(payload.begin(), payload.end());
  }
  return std::move(decoded.message);
}
/// The same; a chunk takes the bytes' memory over.
[[nodiscard]] inline Message decode(std::vector<std::byte>&& bytes, std::string_view peer) {
  auto decoded = detail::decode_but_payload(bytes, peer);
  if (auto* chunk = std::get_if<Chunk>(&decoded.message)) {
    bytes.resize(decoded.payload_end);
    chunk->bytes = {std::move(bytes), decoded.payload_begin};
  }
  return std::move(decoded.message);
}

}  // namespace offsite::federation
