#include "offsite/data/packed_batch.hpp"

#include <cstdint>
#include <vector>

#include "support/test.hpp"

namespace packed_batch_test {

using namespace offsite;

namespace {

std::vector<std::int64_t> values(const at::Tensor& tensor) {
  const auto* data = tensor.const_data_ptr<std::int64_t>();
  return {data, data + tensor.numel()};
}

using Numbers = std::vector<std::int64_t>;

}  // namespace

TEST_CASE("pack: n tokens become n - 1 rows, and only scored rows have targets") {
  const std::vector<Sample> samples{{{10, 11, 12, 13}, 2, 70}, {{20, 21}, 1, 71}, {{30, 31, 32}, 1, 72}};
  const auto batch = pack(samples, Numbers{2, 0, 1});
  CHECK(values(batch.ids) == Numbers{30, 31, 10, 11, 12, 20});
  CHECK(batch.sequences.offsets == Numbers{0, 2, 5, 6});
  CHECK(values(batch.sequences.positions) == Numbers{0, 1, 0, 1, 2, 0});
  CHECK(batch.sequences.samples == Numbers{72, 70, 71});
  CHECK(values(batch.scored_rows) == Numbers{0, 1, 3, 4, 5});
  CHECK(values(batch.targets) == Numbers{31, 32, 12, 13, 21});
}

TEST_CASE("pack: all samples, one sample, none") {
  const std::vector<Sample> samples{{{1, 2}, 1, 0}, {{3, 4, 5}, 2, 1}};
  CHECK(values(pack(samples).ids) == Numbers{1, 3, 4});
  CHECK(values(pack(samples, Numbers{1}).scored_rows) == Numbers{1});
  CHECK(pack(samples, Numbers{}).ids.numel() == 0);
  CHECK(pack(samples, Numbers{}).sequences.count() == 0);
}

TEST_CASE("pack: refuses samples that are not there or cannot be scored") {
  const std::vector<Sample> samples{{{1, 2}, 0, 5}, {{1, 2}, 2, 6}, {{}, 1, 7}, {{1}, 1, 8}, {{1, 2}, 1, 9}};
  for (const std::int64_t i : {0, 1, 2, 3, -1, 5})
    CHECK_THROWS_AS((void)pack(samples, Numbers{4, i}), ArgumentError);
  CHECK(support::message_of<ArgumentError>([&] { (void)pack(samples, Numbers{1}); }) ==
        "sample 6 has 2 tokens and is scored from token 2, but that must lie between 1 and the last token");
}

}  // namespace packed_batch_test
