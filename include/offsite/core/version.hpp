#pragma once
#include <string_view>

namespace offsite {

/// Semantic version of the library and of the program; the build checks that it is the project's.
inline constexpr std::string_view kVersion = "0.1.0";

}  // namespace offsite
