#include "offsite/data/unicode.hpp"

#include <array>

#include "support/test.hpp"

namespace unicode_test {

using offsite::CharClass;

TEST_CASE("char_class: as many of each class as Hugging Face's tokenizers 0.23 sees") {
  std::array<int, 4> count{};
  int words = 0;
  for (std::uint32_t c = 0; c < 0x110000; ++c) {
    count[static_cast<std::size_t>(offsite::char_class(c))] += 1;
    words += offsite::is_word_character(c) ? 1 : 0;
  }
  CHECK(count[static_cast<std::size_t>(CharClass::kLetter)] == 141028);
  CHECK(count[static_cast<std::size_t>(CharClass::kNumber)] == 1911);
  CHECK(count[static_cast<std::size_t>(CharClass::kSpace)] == 25);
  CHECK(words == 144667);
}

TEST_CASE("char_class: single code points") {
  for (const std::uint32_t c : {U'a', U'Z', U'é', U'ß', U'中', U'ª', U'ʰ', U'\U00010400'})
    CHECK(offsite::char_class(c) == CharClass::kLetter);
  for (const std::uint32_t c : {U'0', U'9', U'²', U'½', U'Ⅷ', U'٣'})
    CHECK(offsite::char_class(c) == CharClass::kNumber);
  for (const std::uint32_t c : {0x09u, 0x0du, 0x20u, 0x85u, 0xa0u, 0x1680u, 0x2028u, 0x3000u})
    CHECK(offsite::char_class(c) == CharClass::kSpace);
  // Python's isspace holds for U+001C; \s does not. The zero-width space is none.
  for (const std::uint32_t c : {0x00u, 0x1cu, 0x200bu, 0xfeffu, 0x301u, 0x10ffffu, 0xd800u})
    CHECK(offsite::char_class(c) == CharClass::kOther);
  CHECK(offsite::is_word_character('_'));
  CHECK(offsite::is_word_character(0x301));
  CHECK_FALSE(offsite::is_word_character(U'½'));
  CHECK_FALSE(offsite::is_word_character('-'));
}

TEST_CASE("classed_char: a byte that begins no character is one of its own") {
  CHECK(offsite::classed_char("\xe4\xb8\xad", 0).bytes == 3);
  CHECK(offsite::classed_char("\xe4\xb8", 0).bytes == 1);
  CHECK(offsite::classed_char("\xe4\xb8", 0).char_class == CharClass::kOther);
  CHECK(offsite::classed_char("\xed\xa0\x80", 0).bytes == 1);  // a surrogate
}

TEST_CASE("last_code_point: finds the one that ends a text") {
  CHECK(offsite::last_code_point("a\u00e9").value == 0xe9);
  CHECK(offsite::last_code_point("\U0001f999").bytes == 4);
  CHECK(offsite::last_code_point("").bytes == 0);
  CHECK(offsite::last_code_point("a\xff").bytes == 0);
  CHECK(offsite::last_code_point("\xe4\xb8\xad\x80").bytes == 0);
}

}  // namespace unicode_test
