#pragma once
#include <concepts>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "offsite/data/scan_rows.hpp"

namespace offsite {

/// One row of a task: what the model is shown, and what it is to say.
struct Example {
  std::string prompt;                ///< empty for plain text
  std::vector<std::string> choices;  ///< without the joining space; empty if the task has none
  std::int64_t answer = 0;           ///< index of the right choice
  std::string completion;   ///< of a task without choices: what follows the prompt, joining space included
  std::int64_t number = 0;  ///< row of its file, from 0

  /// What training teaches to say after the prompt: `" " + answer`, or the completion.
  [[nodiscard]] std::string continuation() const {
    return choices.empty() ? completion : " " + choices[static_cast<std::size_t>(answer)];
  }
};

/// How a task's examples are scored, and so how they are encoded.
enum class Scoring : std::uint8_t {
  kMultipleChoice,  ///< by the log-likelihood of each choice
  kCompletion,      ///< by the loss of the completion
  kText,            ///< by the loss of every token, in rolling windows
};

namespace detail {
template <class T>
concept NamesTask = requires {
  { T::kName } -> std::convertible_to<std::string_view>;  // static constexpr std::string_view kName = "mine";
};

// clang-format off: compilers print a requirement's own line, so its remedy stays on it
template <class T>
concept TellsScoring = requires {
  { T::kScoring } -> std::convertible_to<Scoring>;  // static constexpr Scoring kScoring = Scoring::kText;
};

template <class T>
concept ReadsExamples = requires(const T& task, const std::filesystem::path& file, const RowRange& range) {
  { task.read(file, range) } -> std::same_as<std::vector<Example>>;  // read_rows does it for JSON rows
};
// clang-format on
}  // namespace detail

/// Turns the rows of a data file into examples.
///
///   `T::kName`              the name it is asked for by, a `std::string_view`
///   `T::kScoring`           how its examples are scored, a `Scoring`
///   `t.read(file, range)`   the examples of the rows in `range`, in file order, as `std::vector<Example>`
///
/// Semantic requirements: `number` is the row's place in the file whatever the range; all text is valid
/// UTF-8; with `kMultipleChoice` every example has choices and `answer` is one of them, otherwise none has. A
/// bad row throws a `ProtocolError` that names file, row and field.
template <class T>
concept Task = detail::NamesTask<T> && detail::TellsScoring<T> && detail::ReadsExamples<T>;

}  // namespace offsite
