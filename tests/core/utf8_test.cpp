#include "offsite/core/utf8.hpp"

#include <string>

#include "support/test.hpp"

namespace utf8_test {

using namespace offsite;

TEST_CASE("first_code_point: strict") {
  CHECK(first_code_point("a").value == 'a');
  CHECK(first_code_point("\xc3\xa9x").value == 0xe9);
  CHECK(first_code_point("\xe2\x98\x83").value == 0x2603);
  CHECK(first_code_point("\xf0\x9f\x98\x80").value == 0x1f600);
  CHECK(first_code_point("\xf4\x8f\xbf\xbf").value == 0x10ffff);
  for (const char* bad :
       {"", "\x80", "\xc0\x80", "\xc1\xbf", "\xc3", "\xc3(", "\xe0\x80\x80", "\xe0\x9f\xbf", "\xed\xa0\x80",
        "\xe2\x98", "\xf0\x80\x80\x80", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff"})
    CHECK(first_code_point(bad).bytes == 0);
}

TEST_CASE("find_invalid_utf8, count_code_points") {
  CHECK(find_invalid_utf8("") == std::string_view::npos);
  CHECK(find_invalid_utf8("été 水 😀") == std::string_view::npos);
  CHECK(find_invalid_utf8("é\xff") == 2);
  CHECK(find_invalid_utf8("ab\xe6\xb0") == 2);
  CHECK(count_code_points("été 水 😀") == 7);
}

TEST_CASE("strip_left, strip_right: what Python's str.isspace holds for") {
  const std::string space =
      " \t\n\v\f\r\x1c\x1d\x1e\x1f\u0085\u00a0\u1680\u2000\u200a\u2028\u2029\u202f\u205f\u3000";
  CHECK(strip_left(space + "x ") == "x ");
  CHECK(strip_right(" é" + space) == " é");
  CHECK(strip_left(space).empty());
  CHECK(strip_right(space).empty());
  CHECK(strip_left("\u200bx") == "\u200bx");
  CHECK(strip_right("x\ufeff") == "x\ufeff");
  CHECK(strip_right("x\x80\x80") == "x\x80\x80");
}

TEST_CASE("display_width, fit_width") {
  CHECK(display_width("abc") == 3);
  CHECK(display_width("e\u0301") == 1);
  CHECK(display_width("水é😀") == 5);
  CHECK(display_width("\xff\xff") == 2);
  CHECK(fit_width("水é😀", 4) == "水é");
  CHECK(fit_width("abc", 0).empty());
  CHECK(fit_width("abc", 9) == "abc");
}

}  // namespace utf8_test
