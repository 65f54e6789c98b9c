// How fast do the aggregation policies put clients' updates together? The peer is peer/aggregation.py, which runs both
// sides and prints the table.
//   aggregation [numbers=10000000] [clients=32] [threads=1] [policies=fedavg,...]
//   [folder=/tmp]
// A policy's "/streamed" takes sixteen updates at a time into its running sum, as if no more of them were in memory; its
// "/files" has them in files that are in the system's cache, one a client, which it maps as a federation's owner does.
// One line of JSON: seconds of each policy, the faster of two calls, and bytes of the updates a second; beside them
// those of a plain sum over the same updates, which is what the memory gives.
#include <omp.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "offsite/aggregation.hpp"
#include "offsite/federation/aggregate_round.hpp"
#include "offsite/io/json_value.hpp"
#include "offsite/io/mapped_file.hpp"
#include "offsite/io/safetensors.hpp"

namespace {

struct Times {
  double wall = 0, processor = 0;
};

[[nodiscard]] Times now() {
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return {std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(),
          seconds(used.ru_utime) + seconds(used.ru_stime)};
}

template <class F>
[[nodiscard]] Times timed(F&& f) {
  const auto start = now();
  f();
  const auto end = now();
  return {end.wall - start.wall, end.processor - start.processor};
}

/// The sum of all numbers, in sixteen times four lanes.
struct PlainSum {
  template <offsite::simd::Isa>
  [[gnu::always_inline]] static void run(const float* x, Eigen::Index count, float* sum) {
    offsite::simd::Floats a = 0, b = 0, c = 0, d = 0;
    for (Eigen::Index i = 0; i + 64 <= count; i += 64) {
      a += offsite::simd::load(x + i), b += offsite::simd::load(x + i + 16);
      c += offsite::simd::load(x + i + 32), d += offsite::simd::load(x + i + 48);
    }
    const auto lanes = (a + b) + (c + d);
    for (int k = 0; k < offsite::simd::kLanes; ++k) *sum += lanes.raw[k];
  }
};

[[nodiscard]] float plain_sum(const std::vector<offsite::ClientUpdate>& updates) {
  float total = 0;
  for (const auto& update : updates) {
    const Eigen::Index piece = 1 << 20, pieces = (update.delta.size() + piece - 1) / piece;
#pragma omp parallel for reduction(+ : total)
    for (Eigen::Index k = 0; k < pieces; ++k)
      offsite::simd::run<PlainSum>(update.delta.data() + k * piece,
                                   std::min(piece, update.delta.size() - k * piece), &total);
  }
  return total;
}

[[nodiscard]] std::vector<offsite::ClientUpdate> random_updates(Eigen::Index numbers, std::int64_t clients) {
  std::vector<offsite::ClientUpdate> updates;
  for (std::int64_t k = 0; k < clients; ++k) {
    auto delta = offsite::detail::long_vector<Eigen::VectorXf>(numbers);  // large pages, as NumPy's have them
    std::uint64_t state = 0x9e3779b97f4a7c15u * static_cast<std::uint64_t>(k + 1);
    for (auto& x : delta) {
      state ^= state << 13, state ^= state >> 7, state ^= state << 17;
      x = static_cast<float>(static_cast<std::int32_t>(state)) * 0x1p-36f;
    }
    updates.push_back({std::move(delta), 100.0 + static_cast<double>(k)});
  }
  return updates;
}

/// The updates as a client's files; `view` maps one, as a journal does.
class UpdateFiles {
 public:
  UpdateFiles(const std::filesystem::path& folder, const std::vector<offsite::ClientUpdate>& updates)
      : folder_(folder / ("offsite-aggregation-" + std::to_string(getpid()))) {
    std::filesystem::create_directory(folder_);
    for (const auto& update : updates) {
      const auto path = (folder_ / std::to_string(request_.updates.size())).string();
      const auto bytes =
          std::as_bytes(std::span(update.delta.data(), static_cast<std::size_t>(update.delta.size())));
      const offsite::NamedView tensor{"adapter", {offsite::Dtype::kF32, {update.delta.size()}, bytes}};
      offsite::save_safetensors(path, std::span(&tensor, 1));
      request_.updates.push_back({"client", path, update.weight});
    }
  }
  UpdateFiles(const UpdateFiles&) = delete;
  UpdateFiles& operator=(const UpdateFiles&) = delete;
  ~UpdateFiles() { std::filesystem::remove_all(folder_); }

  [[nodiscard]] const offsite::federation::Aggregate& request() const { return request_; }
  [[nodiscard]] static offsite::federation::BlobView view(const std::string& path) {
    const auto file = std::make_shared<const offsite::MappedFile>(path);
    return {file->bytes(), file, {}};
  }

 private:
  std::filesystem::path folder_;
  offsite::federation::Aggregate request_;
};

/// The next global values of a policy that takes a few updates at a time.
[[nodiscard]] Eigen::VectorXf stream(const offsite::AnyAggregation& policy, const Eigen::VectorXf& global,
                                     std::span<const offsite::ClientUpdate> updates,
                                     offsite::AnyAggregation::State& state) {
  constexpr auto kTogether = offsite::WeightedSum::kTogether;
  offsite::WeightedSum sum;
  for (; updates.size() > kTogether; updates = updates.subspan(kTogether))
    policy.add(sum, updates.first(kTogether));
  return policy.finish(global, sum, state, updates);
}

[[nodiscard]] Eigen::VectorXf from_files(const offsite::AnyAggregation& policy, const Eigen::VectorXf& global,
                                         UpdateFiles& files, offsite::AnyAggregation::State& state) {
  Eigen::VectorXf next;
  const auto why =
      offsite::federation::detail::aggregate_into(next, policy, files.request(), global, state, files);
  offsite::require(why.empty(), "{}", why);
  return next;
}

int run(std::map<std::string, std::string>& arguments) {
  const auto numbers = static_cast<Eigen::Index>(std::atoll(arguments.at("numbers").c_str()));
  const auto clients = std::atoll(arguments.at("clients").c_str());
  omp_set_num_threads(std::atoi(arguments.at("threads").c_str()));
  const auto updates = random_updates(numbers, clients);
  const Eigen::VectorXf global = Eigen::VectorXf::Constant(numbers, 0.5f);
  const double bytes = 4.0 * static_cast<double>(numbers) * static_cast<double>(clients);

  auto records = offsite::Json::object({});
  const auto record = [&](std::string_view name, const auto& work) {
    auto times = timed(work);  // of the first call, which allocates the state
    if (const auto again = timed(work); again.wall < times.wall) times = again;
    records[std::string(name)] = offsite::Json::object(
        {{"wall_s", times.wall}, {"processor_s", times.processor}, {"gb_per_s", bytes * 1e-9 / times.wall}});
  };
  float sum = 0;
  record("plain_sum", [&] { sum += plain_sum(updates); });
  std::string_view names = arguments.at("policies");
  while (!names.empty()) {
    const auto name = offsite::detail::cut_before(names, ',');
    const bool streamed = name.ends_with("/streamed");
    const auto text = name.substr(0, name.find('/'));
    const auto policy = offsite::AnyAggregation::parse(text == "norm" ? "norm:1+fedavg" : text);
    offsite::AnyAggregation::State state;
    std::optional<UpdateFiles> files;
    if (name.ends_with("/files")) files.emplace(arguments.at("folder"), updates);
    record(name, [&] {
      const auto next = files      ? from_files(policy, global, *files, state)
                        : streamed ? stream(policy, global, updates, state)
                                   : policy.aggregate(global, updates, state);
      sum += next[0];
    });
  }
  const auto line = offsite::Json::object({{"bench", "aggregation"},
                                           {"numbers", numbers},
                                           {"clients", clients},
                                           {"threads", std::atoi(arguments.at("threads").c_str())},
                                           {"checksum", double{sum}},
                                           {"policies", records}});
  std::printf("%s\n", line.dump().c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    std::map<std::string, std::string> arguments{
        {"numbers", "10000000"},
        {"clients", "32"},
        {"threads", "1"},
        {"folder", std::filesystem::temp_directory_path().string()},
        {"policies",
         "fedavg,fedavg/"
         "streamed,fedavg/"
         "files,fedprox,fedavgm,fedadam,fedyogi,fedadagrad,norm,trimmed_mean,coordinate_median,"
         "geometric_median,krum,multi_krum,bulyan"}};
    for (int i = 1; i < argc; ++i) {
      const std::string text = argv[i], name = text.substr(0, text.find('='));
      offsite::require(
          arguments.contains(name) && name.size() < text.size(),
          "there is no argument {}; there are numbers=, clients=, threads=, folder= and policies=", text);
      arguments[name] = text.substr(name.size() + 1);
    }
    return run(arguments);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
