#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "offsite/core/error.hpp"

namespace offsite {

/// One trained tensor and its place in the flat vectors.
struct TrainedTensor {
  std::string name;  ///< its name in the full model
  std::vector<std::int64_t> shape;
  std::int64_t numel = 0;
  std::int64_t offset = 0;  ///< of its first number
  bool decays = false;      ///< weight decay applies to it

  bool operator==(const TrainedTensor&) const = default;
};

/// Which tensors train, and where each lies in the flat vectors of values, gradients, moments and updates:
/// tensors with weight decay first, then the others, each group in the order of the model.
///
/// Owner and client compute it alone from the model and the split, and get the same one.
class ParameterLayout {
 public:
  /// Announces a tensor. \throws ArgumentError if the name is taken.
  void add(std::string name, std::vector<std::int64_t> shape, bool decays) {
    require(find(name) == nullptr, "two trained tensors are called {}", name);
    std::int64_t numel = 1;
    for (const auto n : shape) numel *= n;
    tensors_.push_back({std::move(name), std::move(shape), numel, 0, decays});
    place();
  }

  [[nodiscard]] const std::vector<TrainedTensor>& tensors() const { return tensors_; }
  [[nodiscard]] std::int64_t size() const { return size_; }  ///< numbers in all
  [[nodiscard]] std::int64_t decayed() const {
    return decayed_;
  }  ///< numbers with weight decay: the first ones

  /// The tensor of that name, or null.
  [[nodiscard]] const TrainedTensor* find(std::string_view name) const {
    for (const auto& tensor : tensors_)
      if (tensor.name == name) return &tensor;
    return nullptr;
  }

  bool operator==(const ParameterLayout&) const = default;

 private:
  void place() {
    size_ = 0;
    for (const bool decays : {true, false}) {
      for (auto& tensor : tensors_)
        if (tensor.decays == decays) {
          tensor.offset = size_;
          size_ += tensor.numel;
        }
      if (decays) decayed_ = size_;
    }
  }

  std::vector<TrainedTensor> tensors_;
  std::int64_t size_ = 0, decayed_ = 0;
};

}  // namespace offsite
