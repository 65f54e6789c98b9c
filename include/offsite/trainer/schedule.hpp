#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <string>
#include <string_view>

#include "offsite/core/error.hpp"

namespace offsite {

/// How the learning rate goes from its peak to the end of training; all warm up linearly from 0 first.
enum class Schedule { kConstant, kLinear, kCosine, kPolynomial };

/// The schedules by the names that Hugging Face's Trainer gives them.
inline constexpr std::array<std::pair<std::string_view, Schedule>, 5> kSchedules{{
    {"constant", Schedule::kConstant},
    {"constant_with_warmup", Schedule::kConstant},
    {"linear", Schedule::kLinear},
    {"cosine", Schedule::kCosine},
    {"polynomial", Schedule::kPolynomial},
}};

/// \throws ArgumentError if no schedule has that name.
[[nodiscard]] inline Schedule schedule_of(std::string_view name) {
  for (const auto& [known, schedule] : kSchedules)
    if (known == name) return schedule;
  std::string names;
  for (const auto& entry : kSchedules) names += (names.empty() ? "" : ", ") + std::string(entry.first);
  throw ArgumentError(formatted("no schedule is called \"{}\"; there are {}", name, names));
}

[[nodiscard]] inline std::string_view schedule_name(Schedule schedule) {
  for (const auto& [name, known] : kSchedules)
    if (known == schedule) return name;
  return "";
}

/// The learning rate of optimiser step `step` (0-based) of `total`, as Hugging Face's schedulers compute it.
///
/// \param peak  the rate after `warmup` steps; a polynomial (power 1) ends at 1e-7, linear and cosine at 0
[[nodiscard]] inline double scheduled_rate(Schedule schedule, double peak, std::int64_t step,
                                           std::int64_t warmup, std::int64_t total) {
  if (step < warmup)
    return peak * static_cast<double>(step) / static_cast<double>(std::max<std::int64_t>(1, warmup));
  if (schedule == Schedule::kConstant) return peak;
  const double length = static_cast<double>(std::max<std::int64_t>(1, total - warmup));
  const double progress = std::min(1.0, static_cast<double>(step - warmup) / length);
  if (schedule == Schedule::kLinear) return peak * (1 - progress);
  if (schedule == Schedule::kCosine) return peak * 0.5 * (1 + std::cos(std::numbers::pi * progress));
  constexpr double kEnd = 1e-7;
  return (peak - kEnd) * (1 - progress) + kEnd;
}

}  // namespace offsite
