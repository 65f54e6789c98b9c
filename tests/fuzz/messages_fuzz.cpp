#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "offsite/federation/check_update.hpp"
#include "offsite/federation/wire.hpp"

namespace {

using namespace offsite::federation;

/// What is taken must come back as it was; what is not must be refused by a ProtocolError.
void decode_and_encode(std::span<const std::byte> bytes) {
  try {
    const auto message = decode(bytes, "fuzz");
    const auto again = encode(message);
    if (!(decode(again, "fuzz") == message)) std::abort();
    if (!(decode(std::vector<std::byte>(bytes.begin(), bytes.end()), "fuzz") == message)) std::abort();
  } catch (const offsite::ProtocolError& error) {
    if (std::string(error.what()).find('\n') != std::string::npos) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
  decode_and_encode(bytes);

  // The same with a version, a checksum and lengths that fit, as an enemy makes them: else nothing gets past those.
  if (size >= kPrefixBytes + kChecksumBytes) {
    std::vector<std::byte> fitting(bytes.begin(), bytes.end());
    const auto payload =
        std::to_integer<std::size_t>(fitting[12]) % (size - kPrefixBytes - kChecksumBytes + 1);
    const std::uint32_t sizes[] = {static_cast<std::uint32_t>(size - kPrefixBytes - kChecksumBytes - payload),
                                   static_cast<std::uint32_t>(payload)};
    fitting[4] = std::byte{kWireVersion};
    std::memcpy(fitting.data() + 8, sizes, sizeof sizes);
    const auto sum = detail::checksum(std::span(fitting).first(size - kChecksumBytes));
    std::copy(sum.begin(), sum.end(), fitting.end() - static_cast<std::ptrdiff_t>(sum.size()));
    decode_and_encode(fitting);
  }

  const TrainedShapes shapes{{"a", {2, 3}}, {"b", {4}}};
  (void)check_update(bytes, shapes);
  return 0;
}
