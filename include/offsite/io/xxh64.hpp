#pragma once
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace offsite {

/// XXH64 with seed 0 (Collet, https://github.com/Cyan4973/xxHash): a checksum that finds damage at the speed of memory. It is
/// no protection against forgery; see `sha256_hex` for that. For little-endian machines, as all of our files are.
[[nodiscard]] inline std::uint64_t xxh64(std::span<const std::byte> bytes) {
  constexpr std::uint64_t kPrimes[] = {0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9,
                                       0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5};
  const auto* at = bytes.data();
  const auto* const end = at + bytes.size();
  const auto take = [&]<class Word>(Word word) {
    std::memcpy(&word, at, sizeof word);
    at += sizeof word;
    return std::uint64_t{word};
  };
  const auto round = [&](std::uint64_t lane, std::uint64_t word) {
    return std::rotl(lane + word * kPrimes[1], 31) * kPrimes[0];
  };

  std::uint64_t sum = kPrimes[4];
  if (bytes.size() >= 32) {
    std::array<std::uint64_t, 4> lanes{kPrimes[0] + kPrimes[1], kPrimes[1], 0, std::uint64_t{0} - kPrimes[0]};
    while (end - at >= 32)
      for (auto& lane : lanes) lane = round(lane, take(std::uint64_t{}));
    sum = std::rotl(lanes[0], 1) + std::rotl(lanes[1], 7) + std::rotl(lanes[2], 12) + std::rotl(lanes[3], 18);
    for (const auto lane : lanes) sum = (sum ^ round(0, lane)) * kPrimes[0] + kPrimes[3];
  }
  sum += bytes.size();
  while (end - at >= 8) sum = std::rotl(sum ^ round(0, take(std::uint64_t{})), 27) * kPrimes[0] + kPrimes[3];
  if (end - at >= 4) sum = std::rotl(sum ^ take(std::uint32_t{}) * kPrimes[0], 23) * kPrimes[1] + kPrimes[2];
  while (at < end) sum = std::rotl(sum ^ take(std::uint8_t{}) * kPrimes[4], 11) * kPrimes[0];
  sum = (sum ^ sum >> 33) * kPrimes[1];
  sum = (sum ^ sum >> 29) * kPrimes[2];
  return sum ^ sum >> 32;
}

}  // namespace offsite
