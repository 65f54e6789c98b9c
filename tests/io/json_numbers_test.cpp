#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>

#include "offsite/io/json.hpp"

#include "support/test.hpp"

namespace json_numbers_test {

using namespace offsite;

TEST_CASE("parse_json: numbers are what they say, zeros with exponents too") {
  const auto number = [](std::string_view text) { return parse_json(text, "x").get<double>(); };
  for (const auto* zero : {"0e40", "0e-35", "0.0e-40", "0.000e-300", "0e-400", "-0.0"}) CHECK(number(zero) == 0);
  CHECK(std::signbit(number("-0.0")));
  CHECK(number("5e-35") == 5e-35);
  CHECK(number("1.7976931348623157e308") == 1.7976931348623157e308);
  CHECK(number("4.9e-324") == 4.9e-324);
  CHECK(number("0.1") == 0.1);
  CHECK(number("1e-999") == 0);
  CHECK(parse_json("-9223372036854775808", "x").get<std::int64_t>() == INT64_MIN);
  CHECK(parse_json("18446744073709551615", "x").get<std::uint64_t>() == UINT64_MAX);
  CHECK(number("18446744073709551616") == 18446744073709551616.0);
  for (const auto& large : {std::string("1e999"), std::string(400, '9'), std::string("-1e310")})
    CHECK_THROWS_AS((void)number(large), ProtocolError);
}

}  // namespace json_numbers_test
