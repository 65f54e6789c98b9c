#pragma once
#include <ATen/core/Tensor.h>

#include <concepts>
#include <cstdint>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>

#include "offsite/blocks/block_access.hpp"
#include "offsite/io/json_value.hpp"
#include "offsite/models/causal_lm.hpp"

namespace offsite {

/// The type of a model's configuration.
template <class M>
using ConfigOf = std::remove_cvref_t<decltype(std::declval<M&>().config)>;

namespace detail {

struct TensorSource {  // archetype of what hands a model its tensors
  at::Tensor operator()(std::string_view, at::IntArrayRef) const { return {}; }
};

// clang-format off: compilers print a requirement's own line, so its remedy stays on it
template <class M>
concept HasConfig = std::copyable<ConfigOf<M>> && requires(const ConfigOf<M>& config, const Json& json) {
  { ConfigOf<M>::from_json(json) } -> std::same_as<ConfigOf<M>>;   // missing? static Config from_json(const Json&)
  { config.to_json() } -> std::same_as<Json>;            // missing? Json to_json() const
  { config.num_blocks() } -> std::same_as<std::int64_t>;           // missing? std::int64_t num_blocks() const
  { config.context_length() } -> std::same_as<std::int64_t>;       // missing? std::int64_t context_length() const
  { config.vocabulary_size() } -> std::same_as<std::int64_t>;      // missing? std::int64_t vocabulary_size() const
  { config.attention_dropout() } -> std::same_as<double>;          // missing? double attention_dropout() const
  { config.residual_dropout() } -> std::same_as<double>;           // missing? double residual_dropout() const
};

template <class M>
concept NamesKeys = requires(std::string_view name) {
  { M::kModelType } -> std::convertible_to<std::string_view>;   // missing? static constexpr std::string_view kModelType
  { M::kKeyPrefix } -> std::convertible_to<std::string_view>;   // missing? static constexpr std::string_view kKeyPrefix
  { M::kTiedKey } -> std::convertible_to<std::string_view>;     // missing? static constexpr std::string_view kTiedKey
  { M::kTiedTo } -> std::convertible_to<std::string_view>;      // missing? static constexpr std::string_view kTiedTo
  { M::is_buffer(name) } -> std::same_as<bool>;                 // missing? static bool is_buffer(std::string_view)
};

template <class M>
concept BuildsFromTensors = requires(const ConfigOf<M>& config, std::span<const std::int64_t> numbers, TensorSource source) {
  { M::build(config, numbers, source) } -> std::same_as<M>;  // template <class S> static M build(const Config&, std::span<const std::int64_t>, S&&)
};
// clang-format on

}  // namespace detail

/// A language model that has a layout of published checkpoints: what reading and writing model folders needs.
///
/// Below, `c` is the model's `config` member, of any copyable type.
///
///   `Config::from_json(json)`      reads a `config.json`; ProtocolError for what it cannot be
///   `c.to_json()`                  the same fields again, unknown ones kept
///   `c.num_blocks()`               blocks of the full model
///   `c.context_length()`           tokens a sequence may have
///   `c.vocabulary_size()`          token ids lie below it
///   `c.attention_dropout()`        the rates that the checkpoint was trained with, in [0, 1); 0 if it names none
///   `c.residual_dropout()`
///   `M::kModelType`                the `model_type` of its `config.json`; see `reads_model_type` for several
///   `M::kKeyPrefix`                what every key but the head's begins with, and some files leave out
///   `M::kTiedKey`, `M::kTiedTo`    the head, and the tensor that it is where the configuration ties them
///   `M::is_buffer(key)`            whether a file's key is a constant of published files, not a parameter
///   `M::build(c, numbers, source)` a model of these blocks of the full one; asks `source(full_name, shape)` for
///                                  each of its parameters once, a tied head not at all
///
/// Semantic requirement: the names that `build` asks for are those that `visit_shared` and `block_prefix` with
/// `visit` give, and begin with `kKeyPrefix`, save `kTiedKey`.
template <class M>
concept CheckpointModel = CausalLm<M> && BlockAccessor<BlockAccess<M>, M> && detail::HasConfig<M> &&
                          detail::NamesKeys<M> && detail::BuildsFromTensors<M>;

/// Whether `M` reads configurations of that `model_type`: `M::accepts(model_type)` of a model that reads several, else
/// whether it is `M::kModelType`.
template <class M>
[[nodiscard]] bool reads_model_type(std::string_view model_type) {
  if constexpr (requires { M::accepts(model_type); })
    return M::accepts(model_type);
  else
    return model_type == M::kModelType;
}

}  // namespace offsite
