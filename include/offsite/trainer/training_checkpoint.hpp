#pragma once
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/core/Tensor.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "offsite/core/random.hpp"
#include "offsite/core/tensors.hpp"
#include "offsite/data/sample.hpp"
#include "offsite/io/json.hpp"
#include "offsite/io/safetensors.hpp"
#include "offsite/io/staged_folder.hpp"
#include "offsite/trainer/flat_parameters.hpp"
#include "offsite/trainer/training_options.hpp"
#include "offsite/trainer/training_state.hpp"

namespace offsite {

namespace detail {

/// Everything that fixes a run's course, by name, so that a resumed run can say what differs.
inline Json run_identity(const TrainingOptions& o, const ParameterLayout& layout,
                         std::span<const Sample> samples, at::ScalarType compute) {
  std::uint64_t data = derive_key(samples.size());
  for (const auto& sample : samples) {
    data = derive_key(data, sample.number, sample.scored_from);
    for (const auto token : sample.tokens) data = mix(data ^ static_cast<std::uint64_t>(token));
  }
  std::uint64_t tensors = derive_key(layout.size());
  for (const auto& tensor : layout.tensors()) {
    for (const char c : tensor.name) tensors = derive_key(tensors, c);
    tensors = derive_key(tensors, tensor.offset, tensor.numel);
  }
  return Json::object({{"learning_rate", o.learning_rate},
                       {"num_epochs", o.num_epochs},
                       {"max_steps", o.max_steps},
                       {"batch_size", o.batch_size},
                       {"batch_tokens", o.batch_tokens},
                       {"gradient_accumulation", o.gradient_accumulation},
                       {"schedule", schedule_name(o.schedule)},
                       {"warmup_steps", o.warmup_steps},
                       {"weight_decay", o.weight_decay},
                       {"max_grad_norm", o.max_grad_norm},
                       {"adam_beta1", o.adam_beta1},
                       {"adam_beta2", o.adam_beta2},
                       {"adam_epsilon", o.adam_epsilon},
                       {"attention_dropout", o.attention_dropout},
                       {"residual_dropout", o.residual_dropout},
                       {"shuffle", o.shuffle},
                       {"seed", o.seed},
                       {"logging_steps", o.logging_steps},
                       {"eval_steps", o.eval_steps},
                       {"metric", static_cast<int>(o.metric)},
                       {"keep_best", o.keep_best},
                       {"early_stopping_patience", o.early_stopping_patience},
                       {"dtype", std::string(dtype_name(dtype_of(compute)))},
                       {"data", formatted("{:016x}", data)},
                       {"trained tensors", formatted("{:016x}", tensors)}});
}

/// What may change the last bits of a result without being wrong.
inline Json run_machine() {
  return Json::object({{"threads", at::get_num_threads()},
                       {"libtorch", TORCH_VERSION},
                       {"processor", at::get_cpu_capability()}});
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
  /// \param identity  what must be equal for a run to go on from a checkpoint: an object of named values
  TrainingCheckpoints(std::filesystem::path folder, Json identity)
      : folder_(std::move(folder)), identity_(std::move(identity)) {}

  /// \param best  values of the best evaluation; undefined if there are none
  /// \returns the checkpoint's path. \throws ArgumentError if it cannot be written; older ones stay.
  std::filesystem::path save(const TrainingState& state, const FlatParameters& parameters,
                             const at::Tensor& best) const {
    std::filesystem::create_directories(folder_);
    const auto path = folder_ / formatted("step-{:08}", state.step);
    StagedFolder staged(path, StagedFolder::Existing::kReplace);
    std::vector<NamedView> tensors{{"first_moment", view_of(parameters.first_moment())},
                                   {"second_moment", view_of(parameters.second_moment())},
                                   {"step_count", view_of(parameters.step_count())},
                                   {"values", view_of(parameters.values())}};
    if (best.defined()) tensors.push_back({"best_values", view_of(best)});
    save_safetensors(staged.path() / "state.safetensors", tensors);
    const auto described = Json::object({{"format", 1},
                                         {"state", detail::to_json(state)},
                                         {"run", identity_},
                                         {"machine", detail::run_machine()}});
    write_json(staged.path() / "state.json", described);
    staged.commit();
    auto all = list();
    for (std::size_t i = 0; i + 2 < all.size(); ++i) std::filesystem::remove_all(all[i]);
    return path;
  }

  /// Restores the newest checkpoint, if there is one. \param warn  called with a sentence if the machine
  /// differs \throws ArgumentError if it belongs to another run, ProtocolError if it is broken; then nothing
  /// has changed.
  template <class Warn>
  [[nodiscard]] std::optional<TrainingState> restore(FlatParameters& parameters, at::Tensor& best,
                                                     Warn&& warn) const {
    const auto all = list();
    if (all.empty()) return std::nullopt;
    const auto& path = all.back();
    const Json saved = read_json(path / "state.json");
    TrainingState state;
    try {
      require<ProtocolError>(saved.at("format") == 1, "{} has format {}, but this version reads format 1",
                             (path / "state.json").string(), saved.at("format").dump());
      check_identity(saved.at("run"), path);
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

  void check_identity(const Json& saved, const std::filesystem::path& path) const {
    for (const auto& [name, value] : identity_.items()) {
      const auto* found = saved.find(name);
      const std::string was = found == nullptr ? "nothing" : found->dump();
      require(found != nullptr && *found == value,
              "cannot resume from {}: its run had {} = {}, this one has {}; give the same, or start anew "
              "with --force",
              path.string(), name, was, value.dump());
    }
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

  std::filesystem::path folder_;
  Json identity_;
};

}  // namespace offsite
