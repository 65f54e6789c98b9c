#pragma once
#include <charconv>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <system_error>
#include <utility>

#include "offsite/core/error.hpp"
#include "offsite/core/tensors.hpp"
#include "offsite/io/safetensors.hpp"
#include "offsite/trainer/flat_parameters.hpp"

namespace offsite {

/// AdamW's state after a client's rounds, in a folder: `optimizer-ROUND.safetensors`. That of the round before is kept,
/// so that a round that is trained a second time, after a crash, begins where it began.
class OptimizerFiles {
 public:
  /// \param folder  is made when something is written
  explicit OptimizerFiles(std::filesystem::path folder) : folder_(std::move(folder)) {}

  /// Gives the parameters the state of the last round before `round`; none is there before the first.
  /// \throws ArgumentError if the file cannot be read; ProtocolError if it is another model's.
  void restore(std::int64_t round, FlatParameters& parameters) const {
    const auto files = rounds();
    const auto next = files.lower_bound(round);
    if (next == files.begin()) return;
    const auto path = std::prev(next)->second;
    const SafetensorsFile file(path);
    for (auto& [name, tensor] : state_of(parameters)) {
      const auto view = file.contains(name) ? file.at(name) : TensorView{};
      require<ProtocolError>(view.dtype == Dtype::kF32 && view.shape == tensor.sizes().vec(),
                             "{} does not hold the optimiser's state of this model: its {} does not fit",
                             path.string(), name);
      tensor.copy_(tensor_over(view, file.owner()));
    }
  }
  /// Writes the state after `round`, and forgets all but the one before it.
  void save(std::int64_t round, FlatParameters& parameters) const {
    std::error_code error;
    std::filesystem::create_directories(folder_, error);
    require(!error, "cannot make the folder {}: {}", folder_.string(), error.message());
    std::vector<NamedView> views;
    for (auto& [name, tensor] : state_of(parameters)) views.push_back({name, view_of(tensor)});
    save_safetensors(folder_ / ("optimizer-" + std::to_string(round) + ".safetensors"), views);
    const auto files = rounds();
    auto kept = files.lower_bound(round);
    if (kept != files.begin()) --kept;
    for (auto old = files.begin(); old != kept; ++old) std::filesystem::remove(old->second, error);
  }

 private:
  static std::map<std::string, at::Tensor> state_of(const FlatParameters& parameters) {
    return {{"first_moment", parameters.first_moment()},
            {"second_moment", parameters.second_moment()},
            {"steps", parameters.step_count()}};
  }
  [[nodiscard]] std::map<std::int64_t, std::filesystem::path> rounds() const {
    std::map<std::int64_t, std::filesystem::path> found;
    std::error_code error;
    for (const auto& file : std::filesystem::directory_iterator(folder_, error)) {
      auto name = file.path().filename().string();
      if (!name.starts_with("optimizer-") || !name.ends_with(".safetensors")) continue;
      name = name.substr(10, name.size() - 22);
      std::int64_t round = 0;
      const auto [stop, wrong] = std::from_chars(name.data(), name.data() + name.size(), round);
      if (wrong == std::errc{} && stop == name.data() + name.size()) found[round] = file.path();
    }
    return found;
  }

  std::filesystem::path folder_;
};

}  // namespace offsite
