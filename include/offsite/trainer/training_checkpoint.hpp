#pragma once
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/core/Tensor.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "offsite/core/tensors.hpp"
#include "offsite/io/json.hpp"
#include "offsite/io/safetensors.hpp"
#include "offsite/io/staged_folder.hpp"
#include "offsite/trainer/checkpoint_store.hpp"
#include "offsite/trainer/flat_parameters.hpp"
#include "offsite/trainer/training_state.hpp"

namespace offsite {

namespace detail {

/// What may change the last bits of a result without being wrong.
inline Json run_machine() {
  return Json::object({{"threads", at::get_num_threads()},
                       {"libtorch", TORCH_VERSION},
                       {"processor", at::get_cpu_capability()}});
}

inline Json to_json(const RunIdentity& run) {
  Json named = Json::object({});
  for (const auto& [name, value] : run) named[name] = value;
  return named;
}

inline Json to_json(const TrainingState& s) {
  return Json::object({{"step", s.step},
                       {"epoch", s.epoch},
                       {"step_in_epoch", s.step_in_epoch},
                       {"bad_steps", s.bad_steps},
                       {"tokens", s.tokens},
                       {"scored_tokens", s.scored_tokens},
                       {"samples", s.samples},
                       {"losses", s.losses},
                       {"interval_loss", s.interval_loss},
                       {"interval_steps", s.interval_steps},
                       {"best_step", s.best_step},
                       {"best_score", s.best_step < 0 ? 0.0 : s.best_score},  // JSON has no infinity
                       {"evaluations_since_best", s.evaluations_since_best}});
}

/// The first thing that a saved run had other than `run`, for people; empty if there is none.
inline std::string difference(const RunIdentity& run, const Json& saved) {
  for (const auto& [name, value] : run) {
    const auto* found = saved.find(name);
    const std::string was = found == nullptr ? "nothing" : found->text();
    if (found == nullptr || was != value)
      return formatted("its run had {} = {}, this one has {}", name, was, value);
  }
  return {};
}

inline TrainingState training_state(const Json& j) {
  TrainingState s;
  const auto read = [&](const char* name, auto& value) { j.at(name).get_to(value); };
  read("step", s.step);
  read("epoch", s.epoch);
  read("step_in_epoch", s.step_in_epoch);
  read("bad_steps", s.bad_steps);
  read("tokens", s.tokens);
  read("scored_tokens", s.scored_tokens);
  read("samples", s.samples);
  read("losses", s.losses);
  read("interval_loss", s.interval_loss);
  read("interval_steps", s.interval_steps);
  read("best_step", s.best_step);
  if (s.best_step >= 0) read("best_score", s.best_score);
  read("evaluations_since_best", s.evaluations_since_best);
  return s;
}

}  // namespace detail

/// The checkpoints of one training run: a folder `step-N` each, with `state.json` and `state.safetensors`,
/// put in place whole or not at all. The newest two are kept.
class TrainingCheckpoints {
 public:
  explicit TrainingCheckpoints(std::filesystem::path folder) : folder_(std::move(folder)) {}

  /// \returns the checkpoint's path. \throws ArgumentError if it cannot be written; older ones stay.
  std::filesystem::path save(const RunIdentity& run, const TrainingState& state,
                             const FlatParameters& parameters, const at::Tensor& best) const {
    std::filesystem::create_directories(folder_);
    const auto path = folder_ / formatted("step-{:08}", state.step);
    StagedFolder staged(path, StagedFolder::Existing::kReplace);
    std::vector<NamedView> tensors{{"first_moment", view_of(parameters.first_moment())},
                                   {"second_moment", view_of(parameters.second_moment())},
                                   {"step_count", view_of(parameters.step_count())},
                                   {"values", view_of(parameters.values())}};
    if (best.defined()) tensors.push_back({"best_values", view_of(best)});
    save_safetensors(staged.path() / "state.safetensors", tensors);
    const auto described = Json::object({{"format", kFormat},
                                         {"state", detail::to_json(state)},
                                         {"run", detail::to_json(run)},
                                         {"machine", detail::run_machine()}});
    write_json(staged.path() / "state.json", described);
    staged.commit();
    auto all = list();
    for (std::size_t i = 0; i + 2 < all.size(); ++i) std::filesystem::remove_all(all[i]);
    return path;
  }

  /// What the run of the newest checkpoint had other than `run`: "its run had seed = 1, this one has 2"; empty if it had the
  /// same, or if there is none. \throws ProtocolError if the checkpoint is broken.
  [[nodiscard]] std::string difference(const RunIdentity& run) const {
    const auto all = list();
    if (all.empty()) return {};
    const auto file = all.back() / "state.json";
    try {
      return detail::difference(run, read_json(file).at("run"));
    } catch (const ProtocolError& error) {
      throw ProtocolError(formatted("{} is not a checkpoint's state: {}", file.string(), error.what()));
    }
  }

  /// Restores the newest checkpoint, if there is one, as `CheckpointStore` says.
  [[nodiscard]] std::optional<TrainingState> restore(const RunIdentity& run, FlatParameters& parameters,
                                                     at::Tensor& best,
                                                     const std::function<void(std::string)>& warn) const {
    const auto all = list();
    if (all.empty()) return std::nullopt;
    const auto& path = all.back();
    const Json saved = read_json(path / "state.json");
    TrainingState state;
    try {
      require<ProtocolError>(saved.at("format") == kFormat,
                             "its format is {}, but this version reads format {}", saved.at("format").dump(),
                             kFormat);
      const auto difference = detail::difference(run, saved.at("run"));
      require(difference.empty(), "cannot resume from {}: {}; give the same, or start anew with --force",
              path.string(), difference);
      state = detail::training_state(saved.at("state"));
      const Json machine = detail::run_machine();
      for (const auto& [name, value] : machine.items())
        if (saved.at("machine").at(name) != value)
          warn(formatted(
              "the checkpoint was made with {} {}, this run has {}: results may differ in the last bits",
              name, saved.at("machine").at(name).dump(), value.dump()));
    } catch (const ProtocolError& error) {
      throw ProtocolError(
          formatted("{} is not a checkpoint's state: {}", (path / "state.json").string(), error.what()));
    }
    load_tensors(path / "state.safetensors", parameters, best);
    return state;
  }

 private:
  /// The checkpoints in the folder, oldest first.
  [[nodiscard]] std::vector<std::filesystem::path> list() const {
    std::vector<std::filesystem::path> found;
    if (!std::filesystem::is_directory(folder_)) return found;
    for (const auto& entry : std::filesystem::directory_iterator(folder_))
      if (entry.path().filename().string().starts_with("step-")) found.push_back(entry.path());
    std::sort(found.begin(), found.end());
    return found;
  }

  static void load_tensors(const std::filesystem::path& path, FlatParameters& parameters, at::Tensor& best) {
    const SafetensorsFile file(path);
    const auto read = [&](const char* name, std::int64_t numel) {
      require<ProtocolError>(file.contains(name), "{} lacks the tensor {}", path.string(), name);
      at::Tensor tensor = tensor_over(file.at(name), file.owner());
      require<ProtocolError>(tensor.scalar_type() == at::kFloat && tensor.numel() == numel,
                             "{} has {} numbers in {}, but {} float32 are trained", path.string(),
                             tensor.numel(), name, numel);
      return tensor;
    };
    const auto size = parameters.layout().size();
    const at::Tensor values = read("values", size), first = read("first_moment", size),
                     second = read("second_moment", size), count = read("step_count", 1);
    if (file.contains("best_values")) best = read("best_values", size).clone();
    parameters.assign(values);
    at::Tensor(parameters.first_moment()).copy_(first);
    at::Tensor(parameters.second_moment()).copy_(second);
    at::Tensor(parameters.step_count()).copy_(count.view_as(parameters.step_count()));
  }

  static constexpr int kFormat = 2;

  std::filesystem::path folder_;
};

/// Keeps the checkpoints of a training run in `folder`, which is made when the first is written.
[[nodiscard]] inline CheckpointStore checkpoints_in(std::filesystem::path folder) {
  const TrainingCheckpoints all(std::move(folder));
  return {.save = [all](const RunIdentity& run, const TrainingState& state, const FlatParameters& parameters,
                        const at::Tensor& best) { return all.save(run, state, parameters, best).string(); },
          .restore =
              [all](const RunIdentity& run, FlatParameters& parameters, at::Tensor& best,
                    const std::function<void(std::string)>& warn) {
                return all.restore(run, parameters, best, warn);
              }};
}

}  // namespace offsite
