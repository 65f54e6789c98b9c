#pragma once
#include <cstdint>
#include <vector>

#include "offsite/data/sample.hpp"

namespace toy {

/// Samples over 50 tokens whose answer repeats the first tokens of the prompt; lengths differ.
inline std::vector<offsite::Sample> samples(std::int64_t count = 7) {
  std::vector<offsite::Sample> all;
  for (std::int64_t k = 0; k < count; ++k) {
    const auto prompt = 9 + 6 * (k % 7);
    offsite::Sample sample{{}, prompt, k};
    for (std::int64_t i = 0; i < prompt; ++i)
      sample.tokens.push_back(static_cast<std::int32_t>((7 * k + 3 * i) % 50));
    for (std::size_t i = 0; i < 3; ++i) sample.tokens.push_back(sample.tokens[i]);
    all.push_back(std::move(sample));
  }
  return all;
}

}  // namespace toy
