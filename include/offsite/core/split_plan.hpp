#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

namespace offsite {

/// Which blocks of a model train, which stand in for the middle, and which stay with the owner. Numbers are
/// the full model's, 0-based and strictly ascending.
struct SplitPlan {
  std::int64_t depth = 0;              ///< blocks of the full model
  std::vector<std::int64_t> adapters;  ///< trained by the client and plugged back
  std::vector<std::int64_t> emulator;  ///< frozen stand-in for the middle

  /// All blocks of the sub-model a client gets, in the order they run.
  [[nodiscard]] std::vector<std::int64_t> kept() const {
    std::vector<std::int64_t> all(adapters.size() + emulator.size());
    std::merge(adapters.begin(), adapters.end(), emulator.begin(), emulator.end(), all.begin());
    return all;
  }
  /// Where the adapter blocks stand in `kept()`.
  [[nodiscard]] std::vector<std::int64_t> adapter_places() const {
    const auto all = kept();
    std::vector<std::int64_t> places;
    for (const auto number : adapters)
      places.push_back(std::lower_bound(all.begin(), all.end(), number) - all.begin());
    return places;
  }
  /// Adapter blocks below every emulator block: the bottom. All of them if the middle is empty.
  [[nodiscard]] std::vector<std::int64_t> bottom() const {
    std::vector<std::int64_t> result = adapters;
    if (!emulator.empty()) std::erase_if(result, [&](auto number) { return number > emulator.front(); });
    return result;
  }
  /// Adapter blocks above every emulator block: the top.
  [[nodiscard]] std::vector<std::int64_t> top() const {
    std::vector<std::int64_t> result = adapters;
    std::erase_if(result, [&](auto number) { return emulator.empty() || number < emulator.back(); });
    return result;
  }

  bool operator==(const SplitPlan&) const = default;
};

}  // namespace offsite
