#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "offsite/core/random.hpp"
#include "offsite/federation/wire.hpp"

#include "federation/allocations.hpp"
#include "federation/sample_messages.hpp"
#include "support/test.hpp"

namespace wire_test {

using namespace offsite::federation;

namespace {

/// Damages a message in one of the ways that networks and enemies do.
std::vector<std::byte> mutated(std::vector<std::byte> bytes, offsite::RandomStream& random) {
  const auto place = [&] { return random.below(bytes.size()); };
  switch (random.below(6)) {
    case 0:
      bytes[place()] ^= static_cast<std::byte>(1 + random.below(255));
      break;
    case 1:
      bytes.resize(place());
      break;
    case 2:
      bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(place()),
                   static_cast<std::byte>(random.below(256)));
      break;
    case 3: {  // a length that is a lie
      const auto lie = static_cast<std::uint32_t>(random.next());
      std::memcpy(bytes.data() + (random.below(2) ? 8 : 12), &lie, sizeof lie);
      break;
    }
    case 4:
      bytes[5] = static_cast<std::byte>(random.below(256));
      break;
    default:
      for (int i = 0; i < 8; ++i) bytes[place()] = static_cast<std::byte>(random.below(256));
  }
  return bytes;
}

/// The same message with a checksum that fits: what an enemy sends.
void sign(std::vector<std::byte>& bytes) {
  if (bytes.size() < kChecksumBytes) return;
  const auto body = std::span(bytes).first(bytes.size() - kChecksumBytes);
  const auto sum = offsite::federation::detail::checksum(body);
  std::copy(sum.begin(), sum.end(), bytes.end() - static_cast<std::ptrdiff_t>(sum.size()));
}

}  // namespace

TEST_CASE("wire: every message comes back as it was") {
  for (const auto& message : sample_messages()) {
    CAPTURE(kMessageNames[message.index()]);
    const auto bytes = encode(message);
    CHECK((decode(bytes, "a peer") == message));
    CHECK(encode(decode(bytes, "a peer")) == bytes);
  }
}

TEST_CASE(
    "wire: of 20,000 damaged messages none crashes, none is taken for another, none allocates what it "
    "claims") {
  offsite::RandomStream random(5);
  const auto messages = sample_messages();
  std::int64_t refused = 0, taken = 0;
  for (int i = 0; i < 20'000; ++i) {
    const auto& message = messages[random.below(messages.size())];
    const auto good = encode(message);
    auto bytes = mutated(good, random);
    const bool resigned = i % 2 == 0;  // damage is found by the checksum, lies must be found without it
    if (resigned) sign(bytes);
    largest_allocation() = 0;
    try {
      const auto decoded = decode(bytes, "a peer");
      const auto most = largest_allocation();
      ++taken;
      CHECK(most <= 32 * bytes.size() + 8192);
      CHECK((resigned || bytes == good));
    } catch (const offsite::ProtocolError& error) {
      const auto most = largest_allocation();
      ++refused;
      CHECK(most <= 32 * bytes.size() + 8192);
      CHECK(std::strlen(error.what()) > 20);
      CHECK(std::strlen(error.what()) < 1'000);
      CHECK(std::strchr(error.what(), '\n') == nullptr);
    }
  }
  CHECK(refused > 15'000);
  CHECK(taken > 0);
}

TEST_CASE("wire: a refusal says in one sentence what is wrong") {
  const auto good = encode(Message{Status{"run-1", Doing::kReady, 3}});
  const auto refusal = [](std::vector<std::byte> bytes) {
    return support::message_of<offsite::ProtocolError>([&] { (void)decode(bytes, "lab-b"); });
  };
  const auto with = [&](std::size_t place, int value) {
    auto bytes = good;
    bytes[place] = static_cast<std::byte>(value);
    sign(bytes);
    return bytes;
  };
  const std::string from = "a message from 'lab-b' is refused: ";
  CHECK(refusal({}) == from + "it has 0 bytes, but the shortest has 48");
  CHECK(refusal(with(0, 'x')) == from + "it does not begin with OFFT");
  CHECK(refusal(with(4, 9)) ==
        from +
            "its layout is of version 9, but this reads version 2: both ends need the same version of "
            "offsite");
  CHECK(refusal(with(4, 1)) ==
        from +
            "its layout is of version 1, but this reads version 2: both ends need the same version of "
            "offsite");
  CHECK(refusal(with(5, 77)) == from + "its number 77 is unknown");
  CHECK(refusal(with(11, 1)) ==
        from + fmt::format("its header claims {} bytes, but at most 65536 are allowed",
                           (1 << 24) + good.size() - 48));
  CHECK(refusal(with(12, 1)) == from + "its payload claims 1 bytes, but at most 0 are allowed");
  auto damaged = good;
  damaged[20] ^= std::byte{4};
  CHECK(refusal(damaged) == from + "its checksum does not fit its bytes");
  CHECK(refusal(with(5, 7)).find("lacks the field") == std::string::npos);  // "run" is no field of a chunk
  CHECK(refusal(with(5, 7)).find("which this version does not know") != std::string::npos);

  auto forged = Status{"run-1", Doing::kReady, -3};
  CHECK(refusal(encode(Message{forged})) ==
        "'round' of the message 'status' from 'lab-b' is -3, but it must be an integer from 0 to 1000000");
}

TEST_CASE("wire: a chunk's bytes are held to their checksum, and may lie elsewhere") {
  const std::vector<std::byte> bytes(1000, std::byte{5});
  const Message chunk = Chunk{std::string(64, 'a'), 17, bytes};
  const auto good = encode(chunk);
  CHECK(encode_chunk(std::string(64, 'a'), 17, bytes) == good);
  const auto shared = std::make_shared<const std::vector<std::byte>>(bytes);
  const auto pieces = encode_chunk(std::string(64, 'a'), 17, SharedBytes{*shared, shared});
  std::vector<std::byte> joined;
  for (const auto& piece : pieces) joined.insert(joined.end(), piece.bytes.begin(), piece.bytes.end());
  CHECK(joined == good);
  CHECK(pieces[1].bytes.data() == shared->data());
  CHECK(pieces[1].owner == shared);
  auto whole = good;
  const auto* memory = whole.data();
  auto taken = decode(std::move(whole), "a peer");
  CHECK((taken == chunk));
  CHECK(encode(taken) == good);
  auto& held = std::get<Chunk>(taken).bytes;
  CHECK(held.data() == memory + good.size() - 1000 - kChecksumBytes);  // where they came in
  auto passed_on = std::move(held);
  CHECK(held.empty());  // NOLINT: moved from, which must leave nothing behind
  CHECK(std::ranges::equal(passed_on, bytes));
  held = passed_on;
  CHECK((held == passed_on));
  for (std::size_t i = good.size() - 1000 - kChecksumBytes; i < good.size(); i += 7) {
    auto damaged = good;
    damaged[i] ^= std::byte{16};
    CHECK_THROWS_AS((void)decode(damaged, "lab-b"), offsite::ProtocolError);
  }
}

TEST_CASE("wire: XXH64 is that of its authors") {
  const auto sum = [](std::string_view text) { return offsite::xxh64(std::as_bytes(std::span(text))); };
  CHECK(sum("") == 0xef46db3751d8e999);
  CHECK(sum("a") == 0xd24ec4f1a98c6e5b);
  CHECK(sum("abc") == 0x44bc2cf5ad770999);
  CHECK(sum("Nobody inspects the spammish repetition") == 0xfbcea83c8a378bf1);
}

TEST_CASE("wire: what a peer writes cannot steer a terminal") {
  const Message evil = Refused{Refused::About::kHello, 1, "run-1", 0, "no\x1b[2J\nway"};
  CHECK(std::get<Refused>(decode(encode(evil), "owner")).reason == "no?[2J?way");
}

}  // namespace wire_test
