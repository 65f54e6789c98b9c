#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "offsite/blocks/block_access.hpp"
#include "offsite/blocks/run_blocks.hpp"
#include "offsite/core/error.hpp"
#include "offsite/core/sequences.hpp"
#include "offsite/models/causal_lm.hpp"

namespace offsite {

/// How a text is continued.
struct GenerateOptions {
  std::int64_t max_new_tokens = 64;           ///< >= 0
  std::int64_t context = 0;                   ///< tokens that prompt and text may have together; 0 = no limit
  std::optional<std::int32_t> end_of_text{};  ///< after it nothing is said
  bool cache = true;                          ///< false: everything is computed again for each token
  std::function<void(std::int32_t)> on_token = {};  ///< told of each new token
};

/// Why a text ends.
enum class Stop : std::uint8_t {
  kEndOfText,  ///< the model said so
  kLength,     ///< `max_new_tokens` were made
  kContext,    ///< the context is full
};

/// What a model says after a prompt.
struct Generated {
  std::vector<std::int32_t> tokens;  ///< without the prompt; the end-of-text token is the last one if it came
  Stop stop = Stop::kLength;

  /// The tokens without the end-of-text token.
  [[nodiscard]] std::span<const std::int32_t> text() const {
    return std::span(tokens).first(tokens.size() - (stop == Stop::kEndOfText ? 1 : 0));
  }
};

namespace detail {

inline at::Tensor ids_of(std::span<const std::int32_t> tokens) {
  at::Tensor ids = at::empty({static_cast<std::int64_t>(tokens.size())}, at::kLong);
  std::copy(tokens.begin(), tokens.end(), ids.mutable_data_ptr<std::int64_t>());
  return ids;
}

inline Sequences one_sequence(std::int64_t length, std::int64_t first_position) {
  auto s = Sequences::of({&length, 1});
  s.positions.add_(first_position);
  return s;
}

/// The first of the largest of `logits` (1, V).
inline std::int32_t likeliest(const at::Tensor& logits) {
  const auto best = logits.argmax(1).item<std::int64_t>();
  const auto value = logits.select(0, 0).select(0, best).template item<double>();
  require<NumericError>(!std::isnan(value), "the model gives NaN as the logit of token {}", best);
  return static_cast<std::int32_t>(best);
}

inline void check_generation(std::span<const std::int32_t> prompt, const GenerateOptions& options) {
  require(options.max_new_tokens >= 0, "max_new_tokens is {}, but it cannot be negative",
          options.max_new_tokens);
  require(options.context >= 0, "context is {}, but it must be positive, or 0 for no limit", options.context);
  require(!prompt.empty(),
          "the prompt has no tokens, but the first new token is predicted from its last one");
  const auto size = static_cast<std::int64_t>(prompt.size());
  require(options.context == 0 || size <= options.context,
          "the prompt has {} tokens, but the model's context holds {}", size, options.context);
}

/// The last hidden row (1, C) after all of `tokens`, by computing everything again.
template <class Access, class Model>
at::Tensor last_row(Model& model, std::span<const std::int32_t> tokens) {
  const auto size = static_cast<std::int64_t>(tokens.size());
  const auto s = one_sequence(size, 0);
  at::Tensor row = at::empty({1}, at::kLong);
  row.fill_(size - 1);
  return run_blocks<Access>(model, model.embed(ids_of(tokens), s), s, row);
}

/// The last hidden row (1, C) after `next`, which follow the `past` tokens in the caches.
template <class Access, class Model, class Caches>
at::Tensor last_row(Model& model, std::span<const std::int32_t> next, std::int64_t past, Caches& caches) {
  const auto size = static_cast<std::int64_t>(next.size());
  at::Tensor h = model.embed(ids_of(next), one_sequence(size, past));
  for (std::int64_t i = 0; i < Access::num_blocks(model); ++i)
    h = Access::forward(Access::block(model, i), h, caches[static_cast<std::size_t>(i)]);
  return h.narrow(0, size - 1, 1);
}

/// Appends the likeliest token again and again; `last(tokens)` gives the last hidden row after all of them.
template <class Model, class Last>
Generated generate_with(Model& model, std::span<const std::int32_t> prompt, const GenerateOptions& options,
                        const Last& last) {
  std::vector<std::int32_t> tokens(prompt.begin(), prompt.end());
  Generated result;
  for (;;) {
    if (static_cast<std::int64_t>(result.tokens.size()) == options.max_new_tokens) return result;
    result.stop = Stop::kContext;
    if (static_cast<std::int64_t>(tokens.size()) == options.context) return result;
    const auto token = likeliest(model.logits(last(tokens)));
    tokens.push_back(token);
    result.tokens.push_back(token);
    if (options.on_token) options.on_token(token);
    result.stop = token == options.end_of_text ? Stop::kEndOfText : Stop::kLength;
    if (result.stop == Stop::kEndOfText) return result;
  }
}

}  // namespace detail

/// Continues `prompt` by the likeliest token, the first of several, until the end of text, `max_new_tokens` or the
/// context's end. Blocks that cache keys and values compute each token once. Several prompts are continued one after
/// another, by a call each.
/// \throws ArgumentError for an empty prompt, one longer than the context, or a token outside the vocabulary;
/// NumericError for NaN.
template <class Model, class Access = BlockAccess<Model>>
[[nodiscard]] Generated generate(Model& model, std::span<const std::int32_t> prompt,
                                 const GenerateOptions& options = {}) {
  static_assert(BlockAccessor<Access, Model>);
  static_assert(CausalLm<Model>);
  detail::check_generation(prompt, options);
  const c10::NoGradGuard no_grad;
  if constexpr (CachesKeys<Access>) {
    if (options.cache) {
      std::vector<typename Access::Cache> caches(static_cast<std::size_t>(Access::num_blocks(model)));
      std::size_t past = 0;
      return detail::generate_with(model, prompt, options, [&](const std::vector<std::int32_t>& tokens) {
        const at::Tensor row = detail::last_row<Access>(model, std::span(tokens).subspan(past),
                                                        static_cast<std::int64_t>(past), caches);
        past = tokens.size();
        return row;
      });
    }
  }
  return detail::generate_with(model, prompt, options, [&](const std::vector<std::int32_t>& tokens) {
    return detail::last_row<Access>(model, tokens);
  });
}

}  // namespace offsite
