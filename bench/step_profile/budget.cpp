#include <cstdio>

#include "offsite/core/tensor_arena.hpp"
#include "offsite/io/json_value.hpp"
#include "step_profile/meter.hpp"

namespace bench {

void Budget::print() const {
  std::printf("%s, %d threads, %lld numbers train, %lld steps of %.0f rows\n", type, threads,
              static_cast<long long>(trained), static_cast<long long>(steps), rows);
  std::printf("useful products        %8.1f Gflop a step, %.1f of them outside the head\n", 1e-9 * flop,
              1e-9 * body);
  std::printf("processor time         %8.1f ms a step, %.1f of it in the system\n", 1e3 * processor,
              1e3 * system);
  std::printf("page faults            %8.1f a step (minor)\n", faults);
  std::printf("operators of LibTorch  %8.1f a step\n", operators);
  std::printf("allocations of LibTorch%8.1f a step, %.1f MB; %.1f MB at once at most\n", allocations,
              1e-6 * allocated, 1e-6 * live);
  std::printf("anonymous memory       %8.1f MB at most; resident with files %.1f MB at most\n",
              1e-6 * anonymous, 1e-6 * resident);
  if (const auto arena = offsite::TensorArena::figures(); arena.reached > 0)
    std::printf("the arena of tensors   %8.1f MB of it\n", 1e-6 * static_cast<double>(arena.reached));

  std::printf("\n%-58s %8s %8s\n", "part", "share", "ms a step");
  for (const Line& line : lines) {
    const auto name = line.what.empty() ? line.part : "  " + line.what;
    std::printf("%-58s %6.2f %% %8.2f", name.c_str(), 100 * line.processor / processor, 1e3 * line.processor);
    if (line.flop > 0) std::printf("  %6.1f Gflop/s", 1e-9 * line.flop / line.processor);
    std::printf("\n");
  }
  std::printf("\nGflop/s are of one processor's time, while it runs; the products' own speed is\n");
  std::printf("%.1f Gflop/s (1472x768 768x3072)\n", 1e-9 * floors.product);
  std::printf(
      "At best a processor updates %.1f GB/s in memory and %.1f in the caches, takes %.2f ns for softmax of "
      "a\n",
      1e-9 * floors.memory, 1e-9 * floors.cache, 1e9 * floors.softmax);
  std::printf("query and a key and %.2f for its gradient, %.2f for an activation and %.2f for its slope\n",
              1e9 * floors.softmax_backward, 1e9 * floors.activation, 1e9 * floors.slope);
}

void Budget::print_json() const {
  using offsite::Json;
  Json all = Json::array({});
  for (const Line& line : lines)
    all.push_back(Json::object({{"part", line.part},
                                {"what", line.what},
                                {"ms", 1e3 * line.processor},
                                {"gflop", 1e-9 * line.flop}}));
  const auto object = Json::object({{"bench", "step_profile"},
                                    {"type", type},
                                    {"threads", threads},
                                    {"trained", trained},
                                    {"steps", steps},
                                    {"rows", rows},
                                    {"pairs", pairs},
                                    {"wall_ms", 1e3 * wall},
                                    {"cpu_ms", 1e3 * processor},
                                    {"system_ms", 1e3 * system},
                                    {"faults", faults},
                                    {"operators", operators},
                                    {"allocations", allocations},
                                    {"allocated_mb", 1e-6 * allocated},
                                    {"live_mb", 1e-6 * live},
                                    {"anonymous_mb", 1e-6 * anonymous},
                                    {"resident_mb", 1e-6 * resident},
                                    {"gflop", 1e-9 * flop},
                                    {"gflop_body", 1e-9 * body},
                                    {"own_gflop_s", 1e-9 * floors.product},
                                    {"memory_gb_s", 1e-9 * floors.memory},
                                    {"cache_gb_s", 1e-9 * floors.cache},
                                    {"softmax_ns", 1e9 * floors.softmax},
                                    {"softmax_backward_ns", 1e9 * floors.softmax_backward},
                                    {"activation_ns", 1e9 * floors.activation},
                                    {"slope_ns", 1e9 * floors.slope},
                                    {"lines", std::move(all)}});
  std::printf("%s\n", object.dump().c_str());
}

}  // namespace bench
