#pragma once
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

namespace offsite::federation {

/// Bytes named by what they are: a tensor or file of an offer, the adapters of a round, an update.
struct Blob {
  std::string sha256;       ///< 64 lower-case hexadecimal digits
  std::uint64_t bytes = 0;  ///< > 0

  bool operator==(const Blob&) const = default;
};

/// One part of the offer: a tensor by its full name, or a file such as `tokenizer.json`.
struct OfferedBlob {
  std::string name;
  Blob blob;

  bool operator==(const OfferedBlob&) const = default;
};

[[nodiscard]] inline bool is_sha256(std::string_view text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == text.npos;
}

/// Whether `name` may name a client: 1 to 64 letters, digits, '.', '_' or '-', the first no '.'. Such a name is also a
/// file's name, so nothing a peer calls itself leads out of a folder.
[[nodiscard]] inline bool is_client_name(std::string_view name) {
  const auto allowed = [](char c) {
    return ('a' <= c && c <= 'z') || ('A' <= c && c <= 'Z') || ('0' <= c && c <= '9') || c == '.' ||
           c == '_' || c == '-';
  };
  return !name.empty() && name.size() <= 64 && name[0] != '.' &&
         std::all_of(name.begin(), name.end(), allowed);
}

/// What a client calls the other end of its channel.
inline constexpr std::string_view kOwner = "owner";

}  // namespace offsite::federation
