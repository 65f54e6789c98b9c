#pragma once
#include <cstdint>
#include <functional>

#include "offsite/core/error.hpp"

namespace offsite {

/// How something is scored; none of it changes the scores beyond rounding.
struct EvaluationOptions {
  std::int64_t batch_tokens = 4096;  ///< packed rows computed at a time, > 0; one item may alone have more
  std::int64_t context = 0;  ///< rows a sequence may have in this model; 0 = left to the model to refuse
  std::function<void(std::int64_t done, std::int64_t total)> progress =
      {};  ///< told after each batch, in items

  /// \throws ArgumentError for a value out of range.
  void check() const {
    require(batch_tokens > 0, "batch_tokens is {}, but at least one row is computed at a time", batch_tokens);
    require(context >= 0, "context is {}, but it must be positive, or 0 if it is not known", context);
  }
};

}  // namespace offsite
