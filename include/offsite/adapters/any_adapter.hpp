#pragma once
#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "offsite/adapters/adapter_policy.hpp"
#include "offsite/adapters/bit_fit.hpp"
#include "offsite/adapters/bottleneck.hpp"
#include "offsite/adapters/lora.hpp"
#include "offsite/adapters/whole_blocks.hpp"

namespace offsite {

/// One of the library's policies, chosen at run time.
struct AnyAdapter {
  std::variant<WholeBlocks, Lora, Bottleneck, BitFit> policy{};

  [[nodiscard]] bool trains(std::string_view name, const at::Tensor& tensor) const {
    return std::visit([&](const auto& p) { return p.trains(name, tensor); }, policy);
  }
  bool attach(std::string_view name, Linear& layer) const {
    return std::visit(
        [&]<class P>(const P& p) {
          if constexpr (AttachesModules<P>)
            return p.attach(name, layer);
          else
            return false;
        },
        policy);
  }
  [[nodiscard]] std::vector<ModuleParameter> modules(std::string_view name, const Linear& layer) const {
    return std::visit(
        [&]<class P>(const P& p) {
          if constexpr (AttachesModules<P>)
            return p.modules(name, layer);
          else
            return std::vector<ModuleParameter>{};
        },
        policy);
  }
  void check() const {
    std::visit(
        []<class P>(const P& p) {
          if constexpr (AttachesModules<P>) p.check();
        },
        policy);
  }
  /// The settings of LoRA if it is that.
  [[nodiscard]] const Lora* lora() const { return std::get_if<Lora>(&policy); }
  [[nodiscard]] std::string text() const {
    return std::visit([](const auto& p) { return std::string(p.text()); }, policy);
  }

  bool operator==(const AnyAdapter&) const = default;
};

/// A policy for each role of a block: as an offer names it.
struct PlacedAdapters {
  AnyAdapter bottom{}, top{};
  std::optional<AnyAdapter> emulator{};  ///< what trains in emulator blocks; none = nothing

  [[nodiscard]] static PlacedAdapters everywhere(const AnyAdapter& policy) { return {policy, policy, {}}; }

  [[nodiscard]] const AnyAdapter& at(BlockRole role) const {
    if (role == BlockRole::kEmulator && emulator) return *emulator;
    return role == BlockRole::kTop ? top : bottom;
  }
  [[nodiscard]] bool trains_emulator() const { return emulator.has_value(); }

  /// The policy's text if it is the same in bottom and top; else "bottom: ...; top: ...". With "; emulator: ..." if
  /// something trains there.
  [[nodiscard]] std::string text() const {
    std::string text = bottom == top ? bottom.text() : "bottom: " + bottom.text() + "; top: " + top.text();
    if (emulator) text += "; emulator: " + emulator->text();
    return text;
  }

  /// Reads what `text` writes, and what people write: settings that are left out have their defaults.
  /// \throws ArgumentError saying what is wrong with it.
  [[nodiscard]] static PlacedAdapters parse(std::string_view text);

  bool operator==(const PlacedAdapters&) const = default;
};

namespace detail {

/// The next part of `text` up to `end`, without blanks around it; takes it off.
[[nodiscard]] inline std::string_view next_part(std::string_view& text, char end) {
  const auto stop = text.find(end);
  auto part = text.substr(0, stop);
  text = stop == text.npos ? std::string_view() : text.substr(stop + 1);
  while (part.starts_with(' ')) part.remove_prefix(1);
  while (part.ends_with(' ')) part.remove_suffix(1);
  return part;
}

template <class Number>
void read_setting(std::string_view name, std::string_view value, Number& to) {
  const auto [stop, error] = std::from_chars(value.data(), value.data() + value.size(), to);
  require(error == std::errc{} && stop == value.data() + value.size(),
          "an adapter policy's {} is '{}', which is no such number", name, value);
}

/// One setting of a policy. \returns false if it has none of that name
inline bool set(WholeBlocks&, std::string_view, std::string_view) { return false; }
inline bool set(BitFit& policy, std::string_view name, std::string_view value) {
  if ((name != "norms" && name != "paper") || !value.empty()) return false;
  policy = {true};
  return true;
}
inline void read_targets(std::string_view value, std::vector<std::string>& targets) {
  targets.clear();
  if (value == "all-linear") return;
  while (!value.empty()) targets.emplace_back(next_part(value, ','));
  check_targets(targets);
}
inline bool set(Bottleneck& policy, std::string_view name, std::string_view value) {
  if (name == "paper" && value.empty())
    policy = Bottleneck::paper();
  else if (name == "width")
    read_setting(name, value, policy.width);
  else if (name == "dropout")
    read_setting(name, value, policy.dropout);
  else if (name == "seed")
    read_setting(name, value, policy.seed);
  else if (name == "targets" && value == "outputs")
    policy.targets.clear();
  else if (name == "targets")
    read_targets(value, policy.targets);
  else
    return false;
  return true;
}
inline bool set(Lora& policy, std::string_view name, std::string_view value) {
  if (name == "paper" && value.empty())
    policy = Lora::paper();
  else if (name == "rank")
    read_setting(name, value, policy.rank);
  else if (name == "alpha")
    read_setting(name, value, policy.alpha);
  else if (name == "dropout")
    read_setting(name, value, policy.dropout);
  else if (name == "seed")
    read_setting(name, value, policy.seed);
  else if (name == "targets")
    read_targets(value, policy.targets);
  else if (name == "rslora" && value.empty())
    policy.rslora = true;
  else if (name == "dora" && value.empty())
    policy.dora = true;
  else
    return false;
  return true;
}

template <class Policy>
[[nodiscard]] AnyAdapter read_policy(Policy policy, std::string_view settings) {
  while (!settings.empty()) {
    auto value = next_part(settings, ' ');
    if (value.empty()) continue;
    const auto name = next_part(value, '=');
    require(set(policy, name, value), "the adapter policy {} has no setting '{}'", Policy::kName, name);
  }
  AnyAdapter any{policy};
  any.check();
  return any;
}

[[nodiscard]] inline AnyAdapter parse_adapter(std::string_view text) {
  const auto name = next_part(text, ' ');
  if (name == WholeBlocks::kName) return read_policy(WholeBlocks{}, text);
  if (name == Lora::kName) return read_policy(Lora{}, text);
  if (name == Bottleneck::kName) return read_policy(Bottleneck{}, text);
  if (name == BitFit::kName) return read_policy(BitFit{}, text);
  throw ArgumentError(
      formatted("the adapter policy is '{}', but there are whole_blocks, lora, bottleneck and bitfit", name));
}

}  // namespace detail

inline PlacedAdapters PlacedAdapters::parse(std::string_view text) {
  constexpr std::string_view kRoles[] = {"bottom:", "top:", "emulator:"};
  const std::string whole(text);
  std::optional<AnyAdapter> placed[3], everywhere;
  do {
    auto part = detail::next_part(text, ';');
    auto* to = &everywhere;
    for (std::size_t i = 0; i < 3; ++i)
      if (part.starts_with(kRoles[i])) {
        part = part.substr(kRoles[i].size());
        to = &placed[i];
      }
    require(!to->has_value(), "the adapter policy '{}' names a place twice", whole);
    while (part.starts_with(' ')) part.remove_prefix(1);
    *to = detail::parse_adapter(part);
  } while (!text.empty());
  auto& [bottom, top, emulator] = placed;
  require(everywhere ? !bottom && !top : bottom && top,
          "the adapter policy '{}' must say what trains in bottom and top, once each or for both", whole);
  return {everywhere ? *everywhere : *bottom, everywhere ? *everywhere : *top, emulator};
}

static_assert(AdapterPolicy<AnyAdapter> && AttachesModules<AnyAdapter> && AdapterPolicy<PlacedAdapters>);

}  // namespace offsite
