// How fast do the aggregation policies put clients' updates together? The peer is peer/aggregation.py, which runs both
// sides and prints the table.
//   aggregation [numbers=10000000] [clients=32] [threads=1] [policies=fedavg,...]
// A policy's "/streamed" takes updates eight at a time into its running sum, as if no more of them were in memory.
// One line of JSON: seconds of each policy, second call of two, and bytes of the updates a second; beside them
// those of a plain sum over the same updates, which is what the memory gives.
#include <omp.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "offsite/aggregation.hpp"
#include "offsite/io/json_value.hpp"

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
    Eigen::VectorXf delta(numbers);
    std::uint64_t state = 0x9e3779b97f4a7c15u * static_cast<std::uint64_t>(k + 1);
    for (auto& x : delta) {
      state ^= state << 13, state ^= state >> 7, state ^= state << 17;
      x = static_cast<float>(static_cast<std::int32_t>(state)) * 0x1p-36f;
    }
    updates.push_back({std::move(delta), 100.0 + static_cast<double>(k)});
  }
  return updates;
}

int run(std::map<std::string, std::string>& arguments) {
  const auto numbers = static_cast<Eigen::Index>(std::atoll(arguments.at("numbers").c_str()));
  const auto clients = std::atoll(arguments.at("clients").c_str());
  omp_set_num_threads(std::atoi(arguments.at("threads").c_str()));
  const auto updates = random_updates(numbers, clients);
  const Eigen::VectorXf global = Eigen::VectorXf::Constant(numbers, 0.5f);
  const double bytes = 4.0 * static_cast<double>(numbers) * static_cast<double>(clients);

  auto records = offsite::Json::object({});
  const auto record = [&](std::string_view name, const Times& times) {
    records[std::string(name)] = offsite::Json::object(
        {{"wall_s", times.wall}, {"processor_s", times.processor}, {"gb_per_s", bytes * 1e-9 / times.wall}});
  };
  float sum = 0;
  for (int call = 0; call < 2; ++call) record("plain_sum", timed([&] { sum += plain_sum(updates); }));
  std::string_view names = arguments.at("policies");
  while (!names.empty()) {
    const auto name = offsite::detail::cut_before(names, ',');
    const bool streamed = name.ends_with("/streamed");
    const auto text = name.substr(0, name.find('/'));
    const auto policy = offsite::AnyAggregation::parse(text == "norm" ? "norm:1+fedavg" : text);
    offsite::AnyAggregation::State state;
    for (int call = 0; call < 2; ++call)  // the first allocates the state
      record(name, timed([&] {
               if (!streamed) return (void)(sum += policy.aggregate(global, updates, state)[0]);
               offsite::WeightedSum total;
               constexpr auto kTogether = offsite::WeightedSum::kTogether;
               for (std::span rest(updates); !rest.empty();
                    rest = rest.subspan(std::min(rest.size(), kTogether)))
                 policy.add(total, rest.first(std::min(rest.size(), kTogether)));
               sum += policy.finish(global, total, state)[0];
             }));
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
        {"policies",
         "fedavg,fedavg/"
         "streamed,fedprox,fedavgm,fedadam,fedyogi,fedadagrad,norm,trimmed_mean,coordinate_median,"
         "geometric_median,krum,multi_krum,bulyan"}};
    for (int i = 1; i < argc; ++i) {
      const std::string text = argv[i], name = text.substr(0, text.find('='));
      offsite::require(arguments.contains(name) && name.size() < text.size(),
                       "there is no argument {}; there are numbers=, clients=, threads= and policies=", text);
      arguments[name] = text.substr(name.size() + 1);
    }
    return run(arguments);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
