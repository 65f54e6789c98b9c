#pragma once
#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/data/choices.hpp"
#include "offsite/data/pairs.hpp"
#include "offsite/data/sciq.hpp"
#include "offsite/data/task.hpp"
#include "offsite/data/text.hpp"

namespace offsite {

/// Any of the ready tasks, for programs that are told its name while they run.
using AnyTask = std::variant<Sciq, Choices, Pairs, Text>;

/// What a program was told about the task beside its name.
struct TaskOptions {
  std::optional<std::string> prompt_template;      ///< of `pairs` only
  std::optional<std::string> completion_template;  ///< of `pairs` only
};

namespace detail {

template <std::size_t... I>
std::string list_task_names(std::index_sequence<I...>) {
  std::string names;
  ((names.append(I == 0 ? "" : ", ").append(std::variant_alternative_t<I, AnyTask>::kName)), ...);
  return names;
}

template <std::size_t... I>
std::optional<AnyTask> find_task(std::string_view name, std::index_sequence<I...>) {
  std::optional<AnyTask> found;
  ((std::variant_alternative_t<I, AnyTask>::kName == name ? void(found.emplace(std::in_place_index<I>))
                                                          : void()),
   ...);
  return found;
}

}  // namespace detail

/// The names of all ready tasks, for help texts: "sciq, choices, ...".
[[nodiscard]] inline std::string task_names() {
  return detail::list_task_names(std::make_index_sequence<std::variant_size_v<AnyTask>>{});
}

/// The task of that name.
/// \throws ArgumentError for an unknown name (lists the known ones), a broken template, or one the task does
/// not take.
[[nodiscard]] inline AnyTask task_named(std::string_view name, const TaskOptions& options = {}) {
  auto task = detail::find_task(name, std::make_index_sequence<std::variant_size_v<AnyTask>>{});
  require(task.has_value(), "there is no task '{}'; the tasks are {}", name, task_names());
  auto* pairs = std::get_if<Pairs>(&*task);
  require(pairs != nullptr || (!options.prompt_template && !options.completion_template),
          "a template was given, but the task '{}' has its own prompts; templates are for 'pairs'", name);
  if (options.prompt_template) pairs->prompt = TemplateText(*options.prompt_template);
  if (options.completion_template) pairs->completion = TemplateText(*options.completion_template);
  return *std::move(task);
}

[[nodiscard]] inline std::string_view name_of(const AnyTask& task) {
  return std::visit([](const auto& t) { return std::string_view(t.kName); }, task);
}

[[nodiscard]] inline Scoring scoring_of(const AnyTask& task) {
  return std::visit([](const auto& t) { return t.kScoring; }, task);
}

/// The examples of the rows in `range`, in file order; see `Task`.
[[nodiscard]] inline std::vector<Example> read_examples(const AnyTask& task,
                                                        const std::filesystem::path& file,
                                                        const RowRange& range = {}) {
  return std::visit([&](const auto& t) { return t.read(file, range); }, task);
}

}  // namespace offsite
