#include "offsite/report/table.hpp"

#include <limits>

#include "support/test.hpp"

namespace table_test {

using namespace offsite;

TEST_CASE("Table: texts to the left, numbers to the right, widths as a terminal shows them") {
  Table table({"model", "accuracy", "steps"});
  table.add({"full", {0.8325, 4}, 7});
  table.add({"émulateur 水", {0.5, 4}, 12345});
  table.add({std::string("x"), {std::numeric_limits<double>::quiet_NaN(), 4}, -1});
  CHECK(table.text() ==
        "model         accuracy  steps\n"
        "------------  --------  -----\n"
        "full            0.8325      7\n"
        "émulateur 水    0.5000  12345\n"
        "x                    -     -1\n");
}

TEST_CASE("Table: a column that holds a text goes to the left; nothing ends in spaces") {
  Table table({"a", "b"});
  CHECK(table.text() == "a  b\n-  -\n");
  table.add({1, "long"});
  table.add({"x", 2});
  CHECK(table.text() == "a  b\n-  ----\n1  long\nx     2\n");
  CHECK_THROWS_AS(table.add({1}), ArgumentError);
}

}  // namespace table_test
