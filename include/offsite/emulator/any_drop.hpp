#pragma once
#include <cstdint>
#include <string_view>
#include <variant>

#include "offsite/emulator/explicit_drop.hpp"
#include "offsite/emulator/uniform_drop.hpp"

namespace offsite {

/// Any of the ready drop rules, for programs that are told which while they run: one type, so that code that takes a
/// drop rule is compiled once for all of them.
struct AnyDrop {
  std::variant<UniformDrop, ExplicitDrop> rule{};

  /// \throws ArgumentError as the chosen rule does.
  [[nodiscard]] LayerSelection select(std::int64_t num_blocks, std::int64_t keep) const {
    return std::visit([&](const auto& chosen) { return chosen.select(num_blocks, keep); }, rule);
  }

  /// The rule of that name, one that needs no further data. \throws ArgumentError for an unknown name.
  [[nodiscard]] static AnyDrop named(std::string_view name) {
    require(name == "uniform", "there is no drop rule '{}'; the drop rules are uniform", name);
    return {UniformDrop{}};
  }
};

static_assert(LayerDrop<AnyDrop>);

}  // namespace offsite
