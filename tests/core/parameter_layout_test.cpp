#include "offsite/core/parameter_layout.hpp"

#include <cstdint>
#include <ctime>
#include <string>
#include <vector>

#include "support/test.hpp"

namespace parameter_layout_test {

using namespace offsite;

TEST_CASE("ParameterLayout: tensors with weight decay lie first, each group in the order of the model") {
  ParameterLayout layout({{"b", {3}, 0, 0, false}, {"w", {2, 5}, 0, 0, true}, {"c", {4}, 0, 0, false}});
  CHECK(layout.size() == 17);
  CHECK(layout.decayed() == 10);
  REQUIRE(layout.find("w") != nullptr);
  CHECK(layout.find("w")->offset == 0);
  CHECK(layout.find("b")->offset == 10);
  CHECK(layout.find("c")->offset == 13);
  CHECK(layout.find("d") == nullptr);
  layout.add("v", {2}, true);
  CHECK(layout.find("v")->offset == 10);
  CHECK(layout.find("b")->offset == 12);
  CHECK(layout.tensors().back().name == "v");

  ParameterLayout same;
  same.add("b", {3}, false), same.add("w", {2, 5}, true), same.add("c", {4}, false), same.add("v", {2}, true);
  CHECK(same == layout);
  CHECK(support::message_of<ArgumentError>([&] { same.add("w", {1}, false); }) ==
        "two trained tensors are called w");
  CHECK(same == layout);
  CHECK_THROWS_AS(ParameterLayout({{"w", {1}, 0, 0, true}, {"w", {1}, 0, 0, false}}), ArgumentError);
}

TEST_CASE("ParameterLayout: a hundred thousand tensors take no longer than their number asks for") {
  constexpr std::int64_t kCount = 100'000;
  std::vector<TrainedTensor> tensors;
  for (std::int64_t i = 0; i < kCount; ++i) {
    std::string name = "blocks." + std::to_string(i) + ".weight";
    tensors.push_back({std::move(name), {2}, 0, 0, i % 2 == 0});
  }
  const auto start = std::clock();
  const ParameterLayout layout(tensors);
  std::int64_t sum = 0;
  for (const auto& tensor : tensors) sum += layout.find(tensor.name)->offset;
  // Several times what it takes with sanitizers; going through all for each takes 8 s and more without.
  CHECK(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC < 3);
  CHECK(sum == kCount * (kCount - 1));
}

}  // namespace parameter_layout_test
