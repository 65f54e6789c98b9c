#pragma once
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/core/random.hpp"

// What the policies that attach modules to layers share.

namespace offsite::detail {

/// Whether a layer's name is one of the targets, or ends in "." and one, as PEFT's `target_modules` means it.
[[nodiscard]] inline bool is_target(std::string_view name, const std::vector<std::string>& targets) {
  return std::any_of(targets.begin(), targets.end(), [&](const std::string& target) {
    return name == target || (name.ends_with(target) && name[name.size() - target.size() - 1] == '.');
  });
}

/// \throws ArgumentError unless each is made of what module names are made of.
inline void check_targets(const std::vector<std::string>& targets) {
  for (const auto& target : targets) {
    const bool plain = std::all_of(target.begin(), target.end(), [](char c) {
      return ('a' <= c && c <= 'z') || ('A' <= c && c <= 'Z') || ('0' <= c && c <= '9') || c == '_' ||
             c == '.';
    });
    require(plain && !target.empty() && target != "all-linear",
            "a target is '{}', but targets are the ends of layers' names, such as c_attn or attn.c_proj",
            target);
  }
}

[[nodiscard]] inline std::string targets_text(const std::vector<std::string>& targets) {
  if (targets.empty()) return "all-linear";
  std::string text;
  for (const auto& target : targets) text += (text.empty() ? "" : ",") + target;
  return text;
}

/// A number for a name: what keeps layers' random numbers apart.
[[nodiscard]] inline std::uint64_t key_of_name(std::string_view name) {
  std::uint64_t key = derive_key(name.size());
  for (const char c : name) key = derive_key(key, static_cast<unsigned char>(c));
  return key;
}

/// Uniform in +-1/sqrt(columns): Kaiming's for a = sqrt(5), with which PEFT and torch::nn::Linear start.
inline void fill_kaiming_uniform(const at::Tensor& weight, std::uint64_t key) {
  RandomStream random(key);
  const double bound = 1 / std::sqrt(static_cast<double>(weight.size(1)));
  auto* numbers = weight.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < weight.numel(); ++i)
    numbers[i] = static_cast<float>((2 * random.uniform() - 1) * bound);
}

}  // namespace offsite::detail
