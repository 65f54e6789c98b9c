#include "offsite/trainer/schedule.hpp"

#include <vector>

#include "support/test.hpp"

namespace schedule_test {

using namespace offsite;

namespace {

std::vector<double> rates(std::string_view name, std::int64_t warmup, std::int64_t total) {
  std::vector<double> result;
  for (std::int64_t step = 0; step < total; ++step)
    result.push_back(scheduled_rate(schedule_of(name), 1e-3, step, warmup, total));
  return result;
}

void check_rates(std::string_view name, std::int64_t warmup, const std::vector<double>& expected) {
  const auto found = rates(name, warmup, static_cast<std::int64_t>(expected.size()));
  for (std::size_t i = 0; i < expected.size(); ++i)
    CHECK_MESSAGE(found[i] == doctest::Approx(expected[i]).epsilon(1e-12), name, " at ", i);
}

}  // namespace

TEST_CASE("scheduled_rate: the values of transformers' get_scheduler(name, lr 1e-3, warm-up, 8 steps)") {
  check_rates("constant", 0, {1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3});
  check_rates("constant_with_warmup", 2, {0, 5e-4, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3});
  check_rates("linear", 0, {1e-3, 8.75e-4, 7.5e-4, 6.25e-4, 5e-4, 3.75e-4, 2.5e-4, 1.25e-4});
  check_rates("linear", 4, {0, 2.5e-4, 5e-4, 7.5e-4, 1e-3, 7.5e-4, 5e-4, 2.5e-4});
  check_rates("cosine", 4,
              {0, 2.5e-4, 5e-4, 7.5e-4, 1e-3, 0.85355339059327378e-3, 5e-4, 0.14644660940672622e-3});
  check_rates("polynomial", 4, {0, 2.5e-4, 5e-4, 7.5e-4, 1e-3, 7.50025e-4, 5.0005e-4, 2.50075e-4});
}

TEST_CASE("scheduled_rate: never negative, never above the peak, also past the end and with warm-up alone") {
  for (const auto& [name, schedule] : kSchedules)
    for (const std::int64_t warmup : {0, 1, 5, 10, 20})
      for (std::int64_t step = 0; step < 30; ++step) {
        const double rate = scheduled_rate(schedule, 1e-3, step, warmup, 10);
        CHECK_MESSAGE((0 <= rate && rate <= 1e-3), name, " warm-up ", warmup, " step ", step);
      }
}

TEST_CASE("schedule_of: an unknown name lists the known ones") {
  CHECK(support::message_of<ArgumentError>([] { (void)schedule_of("cosin"); }) ==
        "no schedule is called \"cosin\"; there are constant, constant_with_warmup, linear, cosine, "
        "polynomial");
  for (const auto& [name, schedule] : kSchedules) CHECK(schedule_of(name) == schedule);
}

}  // namespace schedule_test
