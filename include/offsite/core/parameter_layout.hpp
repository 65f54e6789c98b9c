#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
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
  ParameterLayout() = default;

  /// All tensors at once, in the order of the model; their `numel` and `offset` are computed here. Linear time.
  /// \throws ArgumentError if two have the same name.
  explicit ParameterLayout(std::vector<TrainedTensor> tensors) {
    tensors_.reserve(tensors.size());
    for (auto& tensor : tensors) append(std::move(tensor));
    place();
  }

  /// Announces one more tensor; moves the others, so it takes linear time. \throws ArgumentError if the name is taken.
  void add(std::string name, std::vector<std::int64_t> shape, bool decays) {
    append({std::move(name), std::move(shape), 0, 0, decays});
    place();
  }

  [[nodiscard]] const std::vector<TrainedTensor>& tensors() const { return tensors_; }
  [[nodiscard]] std::int64_t size() const { return size_; }  ///< numbers in all
  [[nodiscard]] std::int64_t decayed() const {
    return decayed_;
  }  ///< numbers with weight decay: the first ones

  /// The tensor of that name, or null.
  [[nodiscard]] const TrainedTensor* find(std::string_view name) const {
    const auto found = places_.find(std::string(name));
    return found == places_.end() ? nullptr : &tensors_[found->second];
  }

  bool operator==(const ParameterLayout&) const = default;

 private:
  void append(TrainedTensor tensor) {
    require(places_.emplace(tensor.name, tensors_.size()).second, "two trained tensors are called {}",
            tensor.name);
    tensor.numel = 1;
    for (const auto n : tensor.shape) tensor.numel *= n;
    tensors_.push_back(std::move(tensor));
  }
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
  std::unordered_map<std::string, std::size_t> places_;  // name -> index in tensors_
  std::int64_t size_ = 0, decayed_ = 0;
};

}  // namespace offsite
