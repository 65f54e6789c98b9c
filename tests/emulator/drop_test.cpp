#include <vector>

#include "offsite/emulator/explicit_drop.hpp"
#include "offsite/emulator/split_plan.hpp"
#include "offsite/emulator/uniform_drop.hpp"

#include "support/test.hpp"

namespace drop_test {

using namespace offsite;
using Blocks = std::vector<std::int64_t>;

namespace {

/// What every drop rule must do, whatever it chooses.
template <LayerDrop Drop>
void check_drop(const Drop& drop, std::int64_t num_blocks, std::int64_t keep) {
  const auto kept = drop.select(num_blocks, keep);
  detail::check_selection(kept, num_blocks, keep);
  CHECK(drop.select(num_blocks, keep) == kept);
}

Blocks uniform(std::int64_t depth, std::int64_t side, std::int64_t keep) {
  return plan_split(depth, {.bottom_blocks = side, .top_blocks = side, .emulator_blocks = keep},
                    UniformDrop{})
      .emulator;
}

}  // namespace

TEST_CASE("LayerDrop conformance: UniformDrop, ExplicitDrop") {
  for (std::int64_t m = 1; m <= 64; ++m)
    for (std::int64_t keep = 1; keep <= m; ++keep) check_drop(UniformDrop{}, m, keep);
  check_drop(ExplicitDrop{{0, 3, 4}}, 6, 3);
}

TEST_CASE("UniformDrop: keeps both ends, evenly spaced, halves to even as the authors' code") {
  CHECK(UniformDrop{}.select(6, 3) == Blocks{0, 2, 5});
  CHECK(UniformDrop{}.select(10, 3) == Blocks{0, 4, 9});
  CHECK(UniformDrop{}.select(8, 1) == Blocks{4});  // the peers divide by zero here
  CHECK(UniformDrop{}.select(7, 1) == Blocks{3});
  CHECK(UniformDrop{}.select(5, 5) == Blocks{0, 1, 2, 3, 4});
}

TEST_CASE("UniformDrop: the paper's models") {
  CHECK(uniform(48, 2, 16) == Blocks{2, 5, 8, 11, 13, 16, 19, 22, 25, 28, 31, 34, 36, 39, 42, 45});
  CHECK(uniform(24, 2, 8) == Blocks{2, 5, 7, 10, 13, 16, 18, 21});
  CHECK(uniform(32, 2, 18) == Blocks{2, 4, 5, 7, 8, 10, 12, 13, 15, 16, 18, 19, 21, 23, 24, 26, 27, 29});
  CHECK(uniform(30, 2, 12) == Blocks{2, 4, 7, 9, 11, 13, 16, 18, 20, 22, 25, 27});
}

TEST_CASE("UniformDrop: more blocks than the middle has is an error, not duplicates") {
  CHECK_THROWS_WITH_AS((void)UniformDrop{}.select(8, 11), "cannot keep 11 of 8 blocks", ArgumentError);
  CHECK_THROWS_AS((void)UniformDrop{}.select(8, 0), ArgumentError);
  CHECK_THROWS_AS((void)UniformDrop{}.select(0, 0), ArgumentError);
}

TEST_CASE("ExplicitDrop: refuses what is no selection") {
  CHECK_THROWS_AS((void)(ExplicitDrop{{1, 1}}.select(4, 2)), ArgumentError);
  CHECK_THROWS_AS((void)(ExplicitDrop{{2, 1}}.select(4, 2)), ArgumentError);
  CHECK_THROWS_AS((void)(ExplicitDrop{{1, 4}}.select(4, 2)), ArgumentError);
  CHECK_THROWS_AS((void)(ExplicitDrop{{-1, 2}}.select(4, 2)), ArgumentError);
  CHECK_THROWS_WITH_AS((void)(ExplicitDrop{{1}}.select(4, 2)),
                       "the drop rule kept 1 blocks, but 2 were asked for", ArgumentError);
}

TEST_CASE("plan_split: bottom and top, one side, any blocks") {
  const auto both = plan_split(8, {.bottom_blocks = 1, .top_blocks = 2, .emulator_blocks = 2}, UniformDrop{});
  CHECK(both.adapters == Blocks{0, 6, 7});
  CHECK(both.emulator == Blocks{1, 5});
  CHECK(both.kept() == Blocks{0, 1, 5, 6, 7});
  CHECK(both.adapter_places() == Blocks{0, 3, 4});
  CHECK(both.bottom() == Blocks{0});
  CHECK(both.top() == Blocks{6, 7});

  const auto top = plan_split(6, {.bottom_blocks = 0, .top_blocks = 2, .emulator_blocks = 1}, UniformDrop{});
  CHECK(top.kept() == Blocks{2, 4, 5});
  CHECK(top.bottom().empty());

  const auto any = plan_split(6, {.emulator_blocks = 2, .adapter_blocks = {4, 1}}, ExplicitDrop{{1, 3}});
  CHECK(any.adapters == Blocks{1, 4});
  CHECK(any.emulator == Blocks{2, 5});  // of the middle 0 2 3 5
}

TEST_CASE("plan_split: each mistake gives one sentence with the numbers") {
  const auto message = [](std::int64_t depth, const SplitOptions& options) {
    return support::message_of<ArgumentError>([&] { (void)plan_split(depth, options, UniformDrop{}); });
  };
  CHECK(message(12, {.bottom_blocks = 1, .top_blocks = 1, .emulator_blocks = 18}) ==
        "emulator_blocks is 18, but 12 blocks minus 1 bottom and 1 top leave 10");
  CHECK(message(6, {.bottom_blocks = 1, .top_blocks = 1, .emulator_blocks = 0}) ==
        "emulator_blocks is 0, but 6 blocks minus 1 bottom and 1 top leave 4");
  CHECK(message(6, {.bottom_blocks = 0, .top_blocks = 0, .emulator_blocks = 1}) ==
        "bottom_blocks and top_blocks are both 0, but something must train");
  CHECK(message(6, {.bottom_blocks = 4, .top_blocks = 3, .emulator_blocks = 1}) ==
        "bottom_blocks is 4 and top_blocks is 3, but the model has 6 blocks");
  CHECK(message(6, {.bottom_blocks = -1, .top_blocks = 3, .emulator_blocks = 1}) ==
        "bottom_blocks is -1 and top_blocks is 3, but neither can be negative");
  CHECK(message(6, {.emulator_blocks = 1, .adapter_blocks = {2, 2}}) == "adapter_blocks names block 2 twice");
  CHECK(message(6, {.emulator_blocks = 1, .adapter_blocks = {6}}) ==
        "adapter_blocks names block 6, but the model's 6 blocks are 0 to 5");
  CHECK(message(3, {.emulator_blocks = 2, .adapter_blocks = {0, 1}}) ==
        "emulator_blocks is 2, but 3 blocks minus 2 adapter blocks leave 1");
}

TEST_CASE("plan_split: a user's drop rule is held to its contract") {
  struct Repeats {
    LayerSelection select(std::int64_t, std::int64_t keep) const {
      return LayerSelection(static_cast<std::size_t>(keep), 0);
    }
  };
  CHECK_THROWS_AS((void)plan_split(8, {.emulator_blocks = 3}, Repeats{}), ArgumentError);
}

}  // namespace drop_test
