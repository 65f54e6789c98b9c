#pragma once
#include <ATen/core/Tensor.h>

#include <concepts>
#include <string_view>

namespace offsite {

namespace detail {

// clang-format off: compilers print a requirement's own line, so its remedy stays on it
template <class P>
concept ChoosesTensors = requires(const P& policy, std::string_view name, const at::Tensor& tensor) {
  { policy.trains(name, tensor) } -> std::same_as<bool>;  // missing? bool trains(std::string_view, const at::Tensor&) const
};
// clang-format on

}  // namespace detail

/// Chooses which parameters of the adapter blocks train; all others stay frozen there too.
///
///   `p.trains(name, tensor)`   asked once for each parameter of each adapter block, by its name within the
///   block
template <class P>
concept AdapterPolicy = std::copyable<P> && detail::ChoosesTensors<P>;

}  // namespace offsite
