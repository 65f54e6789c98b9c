#pragma once
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "offsite/federation/safetensors_bytes.hpp"

namespace offsite::federation {

/// Names and shapes of what a run trains; all of it float32.
using TrainedShapes = std::map<std::string, std::vector<std::int64_t>, std::less<>>;

/// Those of adapters that are trusted: the owner's own. \throws ProtocolError unless all are float32.
[[nodiscard]] inline TrainedShapes trained_shapes(std::span<const std::byte> adapters) {
  TrainedShapes shapes;
  for (auto& [name, tensor] : read_safetensors(adapters, "the adapters")) {
    require<ProtocolError>(tensor.dtype == Dtype::kF32,
                           "tensor {} of the adapters is of type {}, but must be F32",
                           offsite::detail::shown(name), dtype_name(tensor.dtype));
    shapes.emplace(name, tensor.shape);
  }
  return shapes;
}

/// A bound of the bytes of any honest update: its numbers, and a header as large as names and shapes can make it.
[[nodiscard]] inline std::uint64_t most_update_bytes(const TrainedShapes& shapes) {
  std::uint64_t bytes = 4096;
  for (const auto& [name, shape] : shapes)
    bytes += byte_count(Dtype::kF32, shape).value_or(0) + 6 * name.size() + 24 * shape.size() + 256;
  return bytes;
}

/// What `check_update` finds: the L2 norm, or why the update cannot be used.
struct UpdateFacts {
  double norm = 0;
  std::string error;  ///< one sentence; empty if there is nothing wrong
};

namespace detail {

/// Of float32 at any address. Finite if and only if all of them are: squares of finite ones are far below double's end.
[[nodiscard]] inline double sum_of_squares(std::span<const std::byte> bytes) {
  constexpr std::size_t kLanes = 8;  // sums that do not wait for each other
  std::array<double, kLanes> sums{};
  std::array<float, kLanes> values{};
  const auto add = [&] {
    for (std::size_t i = 0; i < kLanes; ++i) sums[i] += double{values[i]} * double{values[i]};
  };
  while (bytes.size() >= sizeof values) {
    std::memcpy(values.data(), bytes.data(), sizeof values);
    bytes = bytes.subspan(sizeof values);
    add();
  }
  values = {};
  if (!bytes.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  add();
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

}  // namespace detail

/// Looks at every number of an update before anything else does: it must hold exactly the trained tensors, in float32,
/// all of them finite. One pass.
[[nodiscard]] inline UpdateFacts check_update(std::span<const std::byte> bytes, const TrainedShapes& shapes) {
  try {
    const auto tensors = read_safetensors(bytes, "the update");
    double squares = 0;
    for (const auto& [name, tensor] : tensors) {
      const auto shown = offsite::detail::shown(name);
      const auto expected = shapes.find(name);
      require<ProtocolError>(expected != shapes.end(), "the update holds tensor {}, which is not trained",
                             shown);
      require<ProtocolError>(tensor.dtype == Dtype::kF32,
                             "tensor {} of the update is of type {}, but F32 was expected", shown,
                             dtype_name(tensor.dtype));
      require<ProtocolError>(tensor.shape == expected->second,
                             "tensor {} of the update has shape {}, but {} was expected", shown,
                             shape_text(tensor.shape), shape_text(expected->second));
      const double sum = detail::sum_of_squares(tensor.bytes);
      require<ProtocolError>(std::isfinite(sum), "tensor {} of the update holds a number that is not finite",
                             shown);
      squares += sum;
    }
    for (const auto& [name, shape] : shapes) {
      bool found = false;
      for (const auto& tensor : tensors) found = found || tensor.name == name;
      require<ProtocolError>(found, "the update lacks tensor {}", offsite::detail::shown(name));
    }
    return {std::sqrt(squares), ""};
  } catch (const ProtocolError& error) {
    return {0, error.what()};
  }
}

}  // namespace offsite::federation
