#include "offsite/federation/sum_of_squares.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include "offsite/core/random.hpp"
#include "offsite/federation/check_update.hpp"
#include "support/test.hpp"

namespace sum_of_squares_test {

using namespace offsite::federation;

namespace {

/// An update of the tensors "a" (5) and "b" (2, 3).
std::vector<std::byte> update_of(std::span<const float> numbers) {
  return safetensors_bytes(std::vector<offsite::NamedView>{
      {"a", {offsite::Dtype::kF32, {5}, std::as_bytes(numbers.first(5))}},
      {"b", {offsite::Dtype::kF32, {2, 3}, std::as_bytes(numbers.subspan(5, 6))}}});
}

const TrainedShapes kShapes{{"a", {5}}, {"b", {2, 3}}};

}  // namespace

TEST_CASE("sums of squares have the same bits however the bytes are cut") {
  offsite::RandomStream random(3);
  std::vector<float> numbers(11);
  for (auto& number : numbers) number = static_cast<float>(random.below(2'000'001)) * 1e-6f - 1;
  const auto file = update_of(numbers);
  const auto known = check_update(file, kShapes);
  CHECK(known.error.empty());
  double expected = 0;
  for (const float number : numbers) expected += double{number} * double{number};
  CHECK(known.norm == doctest::Approx(std::sqrt(expected)).epsilon(1e-14));

  for (std::size_t piece = 1; piece <= file.size(); ++piece) {
    FileSquares squares;
    for (std::size_t at = 0; at < file.size(); at += piece)
      squares.add(std::span(file).subspan(at, std::min(piece, file.size() - at)));
    CHECK(check_update(BlobView{file, nullptr, squares.value()}, kShapes).norm == known.norm);
  }
}

TEST_CASE("a sum of squares that is not finite has the tensor named, and is not believed alone") {
  std::vector<float> numbers(11, 1);
  CHECK(check_update(BlobView{update_of(numbers), nullptr, NAN}, kShapes).norm == std::sqrt(11.0));
  numbers[8] = std::numeric_limits<float>::infinity();
  const auto file = update_of(numbers);
  FileSquares squares;
  squares.add(file);
  CHECK(check_update(BlobView{file, nullptr, squares.value()}, kShapes).error ==
        "tensor 'b' of the update holds a number that is not finite");
}

TEST_CASE("a header that claims more than there is leaves nothing to sum") {
  const std::vector<std::byte> file(100, std::byte{0xff});
  FileSquares squares;
  squares.add(file);
  CHECK(squares.value() == 0);
}

}  // namespace sum_of_squares_test
