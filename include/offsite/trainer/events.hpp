#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace offsite {

/// What an evaluation during training found, on data that is not trained on.
struct EvaluationMetrics {
  double loss = 0;                      ///< nats a scored token
  std::optional<double> accuracy;       ///< 0..1, where the task has choices
  std::optional<double> accuracy_norm;  ///< the same, normalised by the choices' lengths
};

/// After every optimiser step.
struct StepEvent {
  std::int64_t step = 0, total = 0;  ///< steps done, and planned in all
  double epoch = 0;                  ///< passes over the data so far
  double loss = 0;                   ///< of this step, nats a scored token
  double learning_rate = 0, grad_norm = 0;
  std::int64_t tokens = 0;  ///< packed rows of this step
  double seconds = 0;       ///< that this step took
};

/// At the end of a logging interval.
struct LogEvent {
  std::int64_t step = 0;
  double epoch = 0;
  double loss = 0;  ///< mean over the interval's steps
  double learning_rate = 0;
};

/// After an evaluation.
struct EvaluationEvent {
  std::int64_t step = 0;
  EvaluationMetrics metrics;
  bool best = false;  ///< better than all before
};

/// After a checkpoint was written.
struct CheckpointEvent {
  std::int64_t step = 0;
  std::string path;
};

/// A step whose loss or gradient was not finite; it was not applied.
struct BadStepEvent {
  std::int64_t step = 0;
  double loss = 0, grad_norm = 0;
  std::vector<std::int64_t> samples;  ///< the numbers of the step's samples
};

/// Something that the user should know and that does not stop the run.
struct WarningEvent {
  std::string text;
};

using TrainingEvent =
    std::variant<StepEvent, LogEvent, EvaluationEvent, CheckpointEvent, BadStepEvent, WarningEvent>;
using Observer = std::function<void(const TrainingEvent&)>;

namespace detail {

template <class F, class Variant>
inline constexpr bool takes_any = false;
template <class F, class... Events>
inline constexpr bool takes_any<F, std::variant<Events...>> = (std::is_invocable_v<F&, const Events&> || ...);

}  // namespace detail

/// Makes an observer of a callable that takes the events it wants, and no others.
template <class F>
[[nodiscard]] Observer observe(F f) {
  static_assert(detail::takes_any<F, TrainingEvent>,
                "an observer takes at least one event of offsite/trainer/events.hpp, e.g. [](const LogEvent& "
                "e) { ... }");
  return [f = std::move(f)](const TrainingEvent& event) mutable {
    std::visit(
        [&](const auto& e) {
          if constexpr (std::is_invocable_v<F&, decltype(e)>) f(e);
        },
        event);
  };
}

}  // namespace offsite
