#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "offsite/federation/messages.hpp"
#include "offsite/federation/owner_options.hpp"

namespace offsite::federation {

/// What an announced update claims too much of; empty if nothing.
[[nodiscard]] inline std::string over_limit(const UpdateReady& ready, const OwnerOptions& options,
                                            std::uint64_t max_bytes) {
  if (ready.samples < 1 || ready.samples > options.max_samples)
    return formatted("the update claims {} samples, but the owner allows 1 to {} (max_samples)",
                     ready.samples, options.max_samples);
  if (ready.update.bytes > max_bytes)
    return formatted("the update has {} bytes, but the trained tensors take at most {}", ready.update.bytes,
                     max_bytes);
  return {};
}

/// What is wrong with an update of that norm, seen beside those accepted before; empty if nothing.
[[nodiscard]] inline std::string unusual_norm(double norm, std::vector<double> before,
                                              const OwnerOptions& options) {
  if (!std::isfinite(norm)) return "the update's norm is not finite";
  if (norm > options.max_norm)
    return formatted("the update's norm is {:.4g}, but the owner allows {:.4g} (max_norm)", norm,
                     options.max_norm);
  if (before.empty()) return {};
  const auto middle = before.begin() + static_cast<std::ptrdiff_t>(before.size() / 2);
  std::nth_element(before.begin(), middle, before.end());
  if (*middle > 0 && norm > options.max_norm_ratio * *middle)
    return formatted(
        "the update's norm is {:.4g}, {:.3g} times the usual {:.4g}, but the owner allows {:.4g} times "
        "(max_norm_ratio)",
        norm, norm / *middle, *middle, options.max_norm_ratio);
  return {};
}

}  // namespace offsite::federation
