// An adapter policy that does not say which tensors train.
// expect: ChoosesTensors
// expect: missing\? bool trains\(std::string_view, const at::Tensor&\) const
#include "offsite/adapters/adapter_policy.hpp"

struct Everything {
#ifndef MISTAKE
  [[nodiscard]] bool trains(std::string_view, const at::Tensor&) const { return true; }
#endif
};

static_assert(offsite::AdapterPolicy<Everything>);
