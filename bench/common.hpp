// What the measuring programs share: their arguments, SciQ's samples, an offer of random weights that lies in a mapped
// file as a client's does, and the process's meters.
#pragma once
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/core/process.hpp"
#include "offsite/data/encode.hpp"
#include "offsite/data/load_tokenizer.hpp"
#include "offsite/data/sciq.hpp"
#include "offsite/emulator/uniform_drop.hpp"
#include "offsite/trainer/offer.hpp"

namespace bench {

/// `program [MODEL] [name=value ...]`
class Arguments {
 public:
  Arguments(int argc, char** argv, std::map<std::string, std::string> defaults)
      : values_(std::move(defaults)) {
    for (int i = 1; i < argc; ++i) {
      const std::string text = argv[i];
      const auto equals = text.find('=');
      if (equals == std::string::npos) {
        values_["model"] = text;
        continue;
      }
      const auto name = text.substr(0, equals);
      std::string known;
      for (const auto& [each, value] : values_) known += " " + each;
      offsite::require(values_.contains(name), "there is no argument {}; there are{}", name, known);
      values_[name] = text.substr(equals + 1);
    }
  }
  [[nodiscard]] const std::string& text(const std::string& name) const { return values_.at(name); }
  [[nodiscard]] std::int64_t number(const std::string& name) const { return std::atoll(text(name).c_str()); }
  [[nodiscard]] double real(const std::string& name) const { return std::atof(text(name).c_str()); }

 private:
  std::map<std::string, std::string> values_;
};

inline double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// What this process has used so far.
struct Usage {
  double wall = 0, user = 0, system = 0;  ///< seconds
  std::int64_t faults = 0;                ///< minor page faults

  [[nodiscard]] static Usage read() {
    rusage used{};
    getrusage(RUSAGE_SELF, &used);
    const auto seconds = [](const timeval& t) {
      return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
    };
    return {now(), seconds(used.ru_utime), seconds(used.ru_stime), used.ru_minflt};
  }
  friend Usage operator-(const Usage& a, const Usage& b) {
    return {a.wall - b.wall, a.user - b.user, a.system - b.system, a.faults - b.faults};
  }
};

/// Largest resident size of this process so far in MB, mapped files included.
inline double peak_resident() {
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  return static_cast<double>(used.ru_maxrss) / 1024;
}

/// Watches this process's largest anonymous memory, which is without mapped files, from its making on.
class PeakOfAnonymousMemory {
 public:
  PeakOfAnonymousMemory()
      : watcher_([this] {
          while (watching_) {
            most_ = std::max(most_.load(), offsite::anonymous_memory());
            std::this_thread::sleep_for(std::chrono::milliseconds(100));  // more often would cost steps time
          }
        }) {}
  ~PeakOfAnonymousMemory() {
    watching_ = false;
    watcher_.join();
  }
  PeakOfAnonymousMemory(const PeakOfAnonymousMemory&) = delete;
  PeakOfAnonymousMemory& operator=(const PeakOfAnonymousMemory&) = delete;

  [[nodiscard]] double mebibytes() const { return static_cast<double>(most_) / (1 << 20); }

 private:
  std::atomic<bool> watching_{true};
  std::atomic<std::int64_t> most_{0};
  std::thread watcher_;  // last: it uses the others
};

/// The first `count` training samples of SciQ in `data` (sciq/train.json, tokenizers/gpt2) as FATE-LLM and
/// offsite-tuning encode them: only the answer is scored. Without `data`, samples of such lengths with random tokens.
inline std::vector<offsite::Sample> sciq_samples(const std::string& data, std::size_t count,
                                                 std::int64_t vocabulary) {
  std::vector<offsite::Sample> samples;
  if (!data.empty()) {
    const auto tokenizer = offsite::load_tokenizer(std::filesystem::path(data) / "tokenizers" / "gpt2");
    for (const auto& row : offsite::Sciq{}.read(std::filesystem::path(data) / "sciq" / "train.json",
                                                {.limit = static_cast<std::int64_t>(count)})) {
      offsite::Sample sample{tokenizer.encode(row.prompt), 0, row.number};
      sample.scored_from = static_cast<std::int64_t>(sample.tokens.size());
      for (const auto token : tokenizer.encode(row.choices.back())) sample.tokens.push_back(token);
      samples.push_back(std::move(sample));
    }
  } else {
    std::mt19937 random(1);
    std::lognormal_distribution<double> length(4.6, 0.5);
    for (std::size_t i = 0; i < count; ++i) {
      const auto n = std::clamp<std::int64_t>(static_cast<std::int64_t>(length(random)), 20, 600);
      offsite::Sample sample{{}, n - 3, static_cast<std::int64_t>(i)};
      for (std::int64_t t = 0; t <= n; ++t)
        sample.tokens.push_back(static_cast<std::int32_t>(random() % 50257));
      samples.push_back(std::move(sample));
    }
  }
  for (auto& sample : samples)
    for (auto& token : sample.tokens) token = static_cast<std::int32_t>(token % vocabulary);
  return samples;
}

/// An offer of random float32 weights in a mapped file, which is how a client meets one: the blocks that stay with the
/// owner are never made.
template <class Model, class Config>
offsite::Offer<Model> random_offer(const Config& config, const offsite::SplitOptions& split) {
  constexpr std::size_t kRoom = std::size_t{16} << 30;
  const auto path = std::filesystem::temp_directory_path() / offsite::formatted("offsite-bench-{}", getpid());
  std::FILE* file = std::fopen(path.c_str(), "w+be");
  offsite::require(file != nullptr && ftruncate(fileno(file), kRoom) == 0, "cannot write {}", path.string());
  std::shared_ptr<void> memory(mmap(nullptr, kRoom, PROT_READ | PROT_WRITE, MAP_SHARED, fileno(file), 0),
                               [](void* all) { munmap(all, kRoom); });
  std::fclose(file);
  std::filesystem::remove(path);
  offsite::require(memory.get() != MAP_FAILED, "cannot map {}", path.string());

  auto generator = at::make_generator<at::CPUGeneratorImpl>(0);
  std::int64_t used = 0;
  offsite::Offer<Model> offer;
  offer.plan = offsite::plan_split(config.num_blocks(), split, offsite::UniformDrop{});
  offer.model = Model::build(config, offer.plan.kept(), [&](std::string_view name, at::IntArrayRef shape) {
    at::Tensor t = at::from_blob(
        static_cast<float*>(memory.get()) + used, shape, [memory](void*) {}, at::kFloat);
    used += (t.numel() + 15) / 16 * 16;
    if (name.ends_with(".bias")) return t.zero_();
    return shape.size() == 1 ? t.fill_(1) : t.normal_(0, 0.02, generator);
  });
  // On the disk and not read yet, as an offer is that was received: only such pages can be let go of again.
  const auto bytes = static_cast<std::size_t>(used) * sizeof(float);
  offsite::require(
      msync(memory.get(), bytes, MS_SYNC) == 0 && madvise(memory.get(), bytes, MADV_DONTNEED) == 0,
      "cannot write {}", path.string());
  return offer;
}

}  // namespace bench
