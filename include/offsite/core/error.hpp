#pragma once
#include <stdexcept>
#include <string>
#include <type_traits>

#include "offsite/core/format.hpp"

namespace offsite {

/// Root of everything the library throws itself; `c10::Error` passes through.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// The caller's value cannot be used: an option, a path, a shape.
struct ArgumentError : Error {
  using Error::Error;
};

/// A file or a peer's message breaks its format or does not fit what it is used with.
struct ProtocolError : Error {
  using Error::Error;
};

/// A computation gave NaN or infinity, or diverged.
struct NumericError : Error {
  using Error::Error;
};

/// Checks a precondition; the text says what was asked, what was found and how they relate.
/// \throws Exception with the formatted text unless `condition` holds.
template <class Exception = ArgumentError, class... Args>
void require(bool condition, std::type_identity_t<detail::FieldText<sizeof...(Args)>> text,
             const Args&... args) {
  if (!condition) throw Exception(detail::format_fields(text.get(), {TextArgument(args)...}));
}

}  // namespace offsite
