#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
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
      const double before = squares;
      for (std::size_t i = 0; i < tensor.bytes.size(); i += sizeof(float)) {
        float value = 0;
        std::memcpy(&value, tensor.bytes.data() + i, sizeof value);  // at any address
        squares += double{value} * double{value};
      }
      require<ProtocolError>(std::isfinite(squares) || !std::isfinite(before),
                             "tensor {} of the update holds a number that is not finite", shown);
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
