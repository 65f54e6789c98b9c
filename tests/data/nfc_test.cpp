#include "offsite/data/nfc.hpp"

#include "offsite/core/random.hpp"
#include "support/test.hpp"

namespace nfc_test {

namespace {

std::string text_of(std::initializer_list<std::uint32_t> points) {
  std::string text;
  for (const auto c : points) offsite::append_utf8(text, c);
  return text;
}

}  // namespace

TEST_CASE("nfc: composes, decomposes and reorders as UAX #15 says") {
  const auto becomes = [](std::initializer_list<std::uint32_t> from,
                          std::initializer_list<std::uint32_t> to) {
    CHECK(offsite::nfc(text_of(from)) == text_of(to));
    CHECK(offsite::nfc("a " + text_of(from) + " b") == "a " + text_of(to) + " b");
  };
  becomes({'e', 0x301}, {0xe9});
  becomes({'e', 0x301, 0x323}, {0x1eb9, 0x301});  // the mark below comes first
  becomes({0xe9, 0x323}, {0x1eb9, 0x301});        // what was composed comes apart for it
  becomes({'e', 0x300, 0x301}, {0xe8, 0x301});    // of two above, only the first joins
  becomes({0x1e9b, 0x323}, {0x1e9b, 0x323});      // UAX #15's own example
  becomes({0x212b}, {0xc5});                      // the angstrom sign
  becomes({0xf900}, {0x8c48});                    // a compatibility ideograph
  becomes({0x958}, {0x915, 0x93c});               // excluded from composition
  becomes({0x344}, {0x308, 0x301});
  becomes({0x1100, 0x1161, 0x11a8}, {0xac01});  // Hangul
  becomes({0xac00, 0x11a8}, {0xac01});
  becomes({0xac01, 0x11a8}, {0xac01, 0x11a8});
  becomes({0x1100, 0x1161, 0x1161}, {0xac00, 0x1161});
  becomes({0x9c7, 0x9be}, {0x9cb});  // two starters
  becomes({0x301, 'a'}, {0x301, 'a'});
  becomes({0x1d15e}, {0x1d157, 0x1d165});
  CHECK(offsite::nfc("").empty());
}

TEST_CASE("nfc: bytes that are no UTF-8 stay, and nothing joins across them") {
  CHECK(offsite::nfc("e\xff\xcc\x81") == "e\xff\xcc\x81");
  CHECK(offsite::nfc("\xcc\x81\xcc") == "\xcc\x81\xcc");
  CHECK(offsite::nfc("e\xcc\x81\xf0\x9f") == "\xc3\xa9\xf0\x9f");
}

TEST_CASE("nfc: twice is once, whatever the text; Latin text is told to be composed") {
  offsite::RandomStream random(9);
  for (int round = 0; round < 3000; ++round) {
    std::string text;
    for (int i = 0; i < 12; ++i) {
      constexpr std::uint32_t kFirst[] = {'a',    0xc0,   0x300, 0x1100, 0x1161,
                                          0x11a7, 0xac00, 0x900, 0x1e00, 0x1d150};
      offsite::append_utf8(text, kFirst[random.below(10)] + static_cast<std::uint32_t>(random.below(100)));
    }
    const std::string once = offsite::nfc(text);
    CHECK(offsite::nfc(once) == once);
  }
  CHECK(offsite::is_surely_nfc("plain text, d\xc3\xa9j\xc3\xa0 vu"));
  CHECK_FALSE(offsite::is_surely_nfc("e\xcc\x81"));
}

TEST_CASE("nfc: a million marks on one letter take no quadratic time") {
  std::string text = "a";
  for (int i = 0; i < 500'000; ++i) text += i % 2 == 0 ? "\xcc\x81" : "\xcc\xa3";
  CHECK(offsite::nfc(text).size() > 900'000);
}

}  // namespace nfc_test
