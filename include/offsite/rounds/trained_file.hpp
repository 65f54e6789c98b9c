#pragma once
#include <Eigen/Core>

#include <cstddef>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/core/parameter_layout.hpp"
#include "offsite/core/tensor_view.hpp"
#include "offsite/federation/safetensors_bytes.hpp"

namespace offsite {

/// Trained numbers as a safetensors file in memory, float32 under the tensors' full names: adapters or an update, as
/// a federation sends them.
/// \throws ArgumentError if there are not as many as the layout lays.
[[nodiscard]] inline std::vector<std::byte> trained_file(const ParameterLayout& layout,
                                                         std::span<const float> values) {
  require(std::ssize(values) == layout.size(), "{} values were given, but {} are trained", values.size(),
          layout.size());
  std::vector<NamedView> views;
  for (const auto& tensor : layout.tensors())
    views.push_back({tensor.name,
                     {Dtype::kF32, tensor.shape,
                      std::as_bytes(values.subspan(static_cast<std::size_t>(tensor.offset),
                                                   static_cast<std::size_t>(tensor.numel)))}});
  return federation::safetensors_bytes(views);
}

/// The numbers of such a file, as the layout lays them. \param what  names it in errors
/// \throws ProtocolError unless it holds exactly the layout's tensors, float32 and finite.
[[nodiscard]] inline Eigen::VectorXf read_trained_file(std::span<const std::byte> bytes,
                                                       const ParameterLayout& layout,
                                                       const std::string& what) {
  const auto tensors = federation::read_safetensors(bytes, what);
  require<ProtocolError>(tensors.size() == layout.tensors().size(), "{} holds {} tensors, but {} are trained",
                         what, tensors.size(), layout.tensors().size());
  Eigen::VectorXf values(layout.size());
  for (const auto& [name, view] : tensors) {  // their names differ, or they could not be read
    const auto* tensor = layout.find(name);
    require<ProtocolError>(tensor != nullptr, "{} holds tensor {}, which is not trained", what,
                           detail::shown(name));
    require<ProtocolError>(view.dtype == Dtype::kF32 && view.shape == tensor->shape,
                           "tensor {} of {} is of type {} and shape {}, but F32 and {} were expected", name,
                           what, dtype_name(view.dtype), shape_text(view.shape), shape_text(tensor->shape));
    if (tensor->numel > 0) std::memcpy(values.data() + tensor->offset, view.bytes.data(), view.bytes.size());
  }
  require<ProtocolError>(values.allFinite(), "{} holds a number that is not finite", what);
  return values;
}

}  // namespace offsite
