#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "offsite/federation/journal.hpp"
#include "offsite/federation/safetensors_bytes.hpp"
#include "offsite/federation/sum_of_squares.hpp"

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
/// all of them finite. One pass, or none over the numbers if their squares are known.
/// \param squares  the sum of those of all numbers, if these bytes were seen as they came
[[nodiscard]] inline UpdateFacts check_update(std::span<const std::byte> bytes, const TrainedShapes& shapes,
                                              std::optional<double> squares = {}) {
  try {
    const auto tensors = read_safetensors(bytes, "the update");
    std::size_t numbers = 0;  // bytes of them, which are the last of the file
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
      numbers += tensor.bytes.size();
    }
    for (const auto& [name, shape] : shapes) {
      bool found = false;
      for (const auto& tensor : tensors) found = found || tensor.name == name;
      require<ProtocolError>(found, "the update lacks tensor {}", offsite::detail::shown(name));
    }
    const double sum = squares && std::isfinite(*squares) ? *squares : sum_of_squares(bytes.last(numbers));
    for (const auto& [name, tensor] : tensors)
      require<ProtocolError>(std::isfinite(sum) || std::isfinite(sum_of_squares(tensor.bytes)),
                             "tensor {} of the update holds a number that is not finite",
                             offsite::detail::shown(name));
    return {std::sqrt(sum), ""};
  } catch (const ProtocolError& error) {
    return {0, error.what()};
  }
}
[[nodiscard]] inline UpdateFacts check_update(const BlobView& update, const TrainedShapes& shapes) {
  return check_update(update.bytes, shapes, update.squares);
}

}  // namespace offsite::federation
