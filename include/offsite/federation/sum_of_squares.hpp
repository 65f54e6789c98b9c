#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <span>

namespace offsite::federation {

/// A sum of squares of float32 that come in pieces of any length; its bits depend on the numbers alone. Finite if and only if
/// all of them are: squares of finite ones are far below double's end.
class SumOfSquares {
 public:
  void add(std::span<const std::byte> bytes) {
    if (held_ > 0) {
      const auto taken = bytes.first(std::min(kBlock - held_, bytes.size()));
      std::memcpy(block_.data() + held_, taken.data(), taken.size());
      bytes = bytes.subspan(taken.size());
      held_ += taken.size();
      if (held_ < kBlock) return;
      sums_ = added(sums_, block_);
    }
    const auto whole = bytes.size() / kBlock * kBlock;
    sums_ = added(sums_, bytes.first(whole));
    held_ = bytes.size() - whole;
    if (held_ > 0) std::memcpy(block_.data(), bytes.data() + whole, held_);
  }
  [[nodiscard]] double value() const {
    auto last = block_;
    std::fill(last.begin() + static_cast<std::ptrdiff_t>(held_), last.end(), std::byte{0});
    const auto sums = added(sums_, last);
    return std::accumulate(sums.begin(), sums.end(), 0.0);
  }

 private:
  static constexpr std::size_t kLanes = 8;  // sums that do not wait for each other
  static constexpr std::size_t kBlock = kLanes * sizeof(float);
  using Sums = std::array<double, kLanes>;

  /// \param bytes  whole blocks
  [[nodiscard]] static Sums added(Sums sums, std::span<const std::byte> bytes) {
    std::array<float, kLanes> values{};
    for (; !bytes.empty(); bytes = bytes.subspan(kBlock)) {
      std::memcpy(values.data(), bytes.data(), kBlock);
      for (std::size_t i = 0; i < kLanes; ++i) sums[i] += double{values[i]} * double{values[i]};
    }
    return sums;
  }

  Sums sums_{};
  std::array<std::byte, kBlock> block_{};
  std::size_t held_ = 0;  // bytes of a block that is not whole yet
};

[[nodiscard]] inline double sum_of_squares(std::span<const std::byte> bytes) {
  SumOfSquares squares;
  squares.add(bytes);
  return squares.value();
}

/// The sum of squares of all numbers of a safetensors file, taken for float32, from its bytes as they come. Nothing is checked:
/// it means something if the file turns out to hold float32 alone.
class FileSquares {
 public:
  void add(std::span<const std::byte> bytes) {
    for (; !bytes.empty() && seen_ < sizeof header_; bytes = bytes.subspan(1))
      header_ |= std::uint64_t{std::to_integer<std::uint8_t>(bytes[0])} << (8 * seen_++);
    const auto skipped = std::min<std::uint64_t>(header_, bytes.size());
    if (seen_ == sizeof header_) header_ -= skipped;
    squares_.add(bytes.subspan(static_cast<std::size_t>(skipped)));
  }
  [[nodiscard]] double value() const { return squares_.value(); }

 private:
  std::size_t seen_ = 0;      // bytes of the header's length
  std::uint64_t header_ = 0;  // that length; later, what is left of it
  SumOfSquares squares_;
};

}  // namespace offsite::federation
