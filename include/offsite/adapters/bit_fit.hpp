#pragma once
#include <ATen/core/Tensor.h>

#include <string_view>

#include "offsite/adapters/adapter_policy.hpp"

namespace offsite {

/// Biases train and nothing else (Ben Zaken, Ravfogel, Goldberg, arXiv:2106.10199).
struct BitFit {
  static constexpr std::string_view kName = "bitfit";

  bool norms = false;  ///< every vector trains, the norms' weights too, as in Offsite-Tuning's code

  [[nodiscard]] static BitFit paper() { return {true}; }  ///< Offsite-Tuning's settings (arXiv:2302.04870)

  [[nodiscard]] bool trains(std::string_view name, const at::Tensor& tensor) const {
    return tensor.dim() == 1 && !detail::is_module_name(name) && (norms || name.ends_with("bias"));
  }
  [[nodiscard]] std::string_view text() const { return norms ? "bitfit norms" : "bitfit"; }

  bool operator==(const BitFit&) const = default;
};

static_assert(AdapterPolicy<BitFit>);

}  // namespace offsite
