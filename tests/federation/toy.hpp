#pragma once
#include <array>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "offsite/federation/safetensors_bytes.hpp"

/// A model of seven numbers that are trained, whose loss is the squared distance to a target.
namespace toy {

using Numbers = std::array<float, 7>;

/// As two tensors of a safetensors file.
inline std::vector<std::byte> bytes_of(const Numbers& numbers) {
  const auto raw = std::as_bytes(std::span(numbers));
  const std::vector<offsite::NamedView> tensors{
      {"block.0.weight", {offsite::Dtype::kF32, {2, 2}, raw.first(16)}},
      {"block.1.bias", {offsite::Dtype::kF32, {3}, raw.subspan(16)}}};
  return offsite::federation::safetensors_bytes(tensors);
}

inline Numbers numbers_of(std::span<const std::byte> bytes) {
  Numbers numbers{};
  std::size_t at = 0;
  for (const auto& [name, tensor] : offsite::federation::read_safetensors(bytes, "the toy")) {
    std::memcpy(numbers.data() + at, tensor.bytes.data(), tensor.bytes.size());
    at += tensor.bytes.size() / sizeof(float);
  }
  return numbers;
}

inline double loss(const Numbers& numbers, const Numbers& target) {
  double sum = 0;
  for (std::size_t i = 0; i < numbers.size(); ++i) sum += std::pow(double{numbers[i]} - double{target[i]}, 2);
  return sum;
}

}  // namespace toy
