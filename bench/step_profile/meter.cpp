#ifndef NDEBUG
#define NDEBUG  // as LibTorch was built: the layout of at::RecordFunction depends on it
#endif
#include "step_profile/meter.hpp"

#include <ATen/Parallel.h>
#include <ATen/record_function.h>
#include <c10/core/CPUAllocator.h>
#include <cxxabi.h>
#include <elf.h>
#include <link.h>
#include <signal.h>
#include <sys/time.h>
#include <ucontext.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "common.hpp"
#include "offsite/ops/tiled_product.hpp"

namespace bench {
namespace {

constexpr std::size_t kMostSamples = 1 << 18;
struct Sampled {
  std::int32_t call;  // which kind of call was running, or -1
  void* at;
};
std::vector<Sampled>& sampled() {
  static std::vector<Sampled> all(kMostSamples);
  return all;
}
std::atomic<std::size_t> sampled_count{0};
std::atomic<std::int32_t> running{-1};
std::atomic<bool> counting{false};

void on_timer(int, siginfo_t*, void* context) {
  if (!counting) return;
  const auto i = sampled_count.fetch_add(1);
  if (i >= kMostSamples) return;
#if defined(__x86_64__)
  auto* at = reinterpret_cast<void*>(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]);
#else
  auto* at = reinterpret_cast<void*>(static_cast<ucontext_t*>(context)->uc_mcontext.pc);
#endif
  sampled()[i] = {running.load(), at};
}

/// Operators with the shapes they were given, if they are products.
struct Call {
  std::string name, shape;
  double flop = 0;  // of all counted calls
  bool head = false;
  std::int64_t calls = 0;
};
std::vector<Call>& calls() {
  static std::vector<Call> all;
  return all;
}
std::map<std::string, std::int32_t>& call_numbers() {
  static std::map<std::string, std::int32_t> all;
  return all;
}
std::vector<std::int32_t>& call_stack() {
  static std::vector<std::int32_t> all;
  return all;
}
std::int64_t vocabulary_size = 0;

bool stored_in_by_out = false;

/// Which product of a linear layer a (m, k) times b (k, n) is, and the layer's widths: a weight's gradient is the only one
/// whose first factor is transposed, and whether a weight is tells the way through the layer.
std::string product_of(const at::Tensor& a, const at::Tensor& b) {
  const auto transposed = [](const at::Tensor& t) { return t.stride(0) == 1 && t.stride(1) > 1; };
  const auto named = [](const char* product, std::int64_t in, std::int64_t out) {
    return std::string(product) + " " + std::to_string(in) + " to " + std::to_string(out);
  };
  const auto k = b.size(0), n = b.size(1);
  if (transposed(a))
    return stored_in_by_out ? named("weight gradient", a.size(0), n) : named("weight gradient", n, a.size(0));
  const bool forward = n == vocabulary_size || (k != vocabulary_size && transposed(b) != stored_in_by_out);
  return forward ? named("forward", k, n) : named("input gradient", n, k);
}

void begin(Call call, double flop) {
  const auto [found, added] =
      call_numbers().emplace(call.name + call.shape, static_cast<std::int32_t>(calls().size()));
  if (added) calls().push_back(call);
  if (auto& same = calls()[static_cast<std::size_t>(found->second)]; counting) {
    ++same.calls;
    same.flop += flop;
  }
  call_stack().push_back(found->second);
  running = found->second;
}
void begin_product(Call call, const at::Tensor& a, const at::Tensor& b) {
  call.shape = product_of(a, b);
  call.head = a.size(1) == vocabulary_size || b.size(1) == vocabulary_size;
  begin(call, 2.0 * static_cast<double>(a.size(0)) * static_cast<double>(a.size(1)) *
                  static_cast<double>(b.size(1)));
}
void end() {
  call_stack().pop_back();
  running = call_stack().empty() ? -1 : call_stack().back();
}

std::unique_ptr<at::ObserverContext> on_begin(const at::RecordFunction& f) {
  const Call call{f.name(), {}};
  const bool product = call.name == "aten::mm", sum = call.name.starts_with("aten::addmm"),
             layer = call.name == "mkldnn::_linear_pointwise";  // its weight is (out, in)
  if (!product && !sum && !layer) {
    begin(call, 0);
    return nullptr;
  }
  const auto inputs = f.inputs();
  const at::Tensor second = inputs[sum ? 2 : 1].toTensor();
  begin_product(call, inputs[sum ? 1 : 0].toTensor(), layer ? second.t() : second);
  return nullptr;
}
void on_end(const at::RecordFunction&, at::ObserverContext*) { end(); }

/// The library's own products, which are no operators of LibTorch.
constexpr const char* kTiledProduct = "tiled product";
void on_tiled_product(const at::Tensor& a, const at::Tensor& b, bool begins) {
  if (!begins) return end();
  begin_product({kTiledProduct, {}}, a, b);
}

/// Counts what LibTorch asks of the allocator that it would use anyway. A header before each block holds its size, since
/// LibTorch wants the block's address to be all that a deleter needs.
class CountingAllocator : public c10::Allocator {
 public:
  explicit CountingAllocator(c10::Allocator* used) { inner = used; }
  c10::DataPtr allocate(std::size_t n) override {
    auto* block = static_cast<char*>(inner->raw_allocate(n + kHeader));
    std::memcpy(block, &n, sizeof n);
    ++count;
    bytes += n;
    if (const auto now = live += n; now > peak) peak = now;
    return {block + kHeader, block + kHeader, &release, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t n) const override { default_copy_data(to, from, n); }

  static inline std::atomic<std::uint64_t> count{0}, bytes{0}, live{0}, peak{0};

 private:
  static constexpr std::size_t kHeader = 64;
  static inline c10::Allocator* inner = nullptr;

  static void release(void* data) {
    if (data == nullptr) return;
    auto* block = static_cast<char*>(data) - kHeader;
    std::size_t n = 0;
    std::memcpy(&n, block, sizeof n);
    live -= n;
    inner->raw_deallocate(block);
  }
};

/// This program's own functions by address, from its file's symbol table: local ones too, which dladdr does not know.
class Symbols {
 public:
  Symbols() {
    std::ifstream file("/proc/self/exe", std::ios::binary);
    const std::string image((std::istreambuf_iterator<char>(file)), {});
    const auto read = [&]<class T>(std::uint64_t offset, T) {
      T value{};
      if (offset + sizeof value <= image.size()) std::memcpy(&value, image.data() + offset, sizeof value);
      return value;
    };
    const auto header = read(0, ElfW(Ehdr){});
    dl_iterate_phdr(
        [](dl_phdr_info* info, std::size_t, void* base) {
          *static_cast<std::uint64_t*>(base) = info->dlpi_addr;
          return 1;  // the first is the program itself
        },
        &base_);
    for (unsigned i = 0; i < header.e_shnum; ++i) {
      const auto section = read(header.e_shoff + i * sizeof(ElfW(Shdr)), ElfW(Shdr){});
      if (section.sh_type != SHT_SYMTAB) continue;
      const auto names = read(header.e_shoff + section.sh_link * sizeof(ElfW(Shdr)), ElfW(Shdr){});
      for (std::uint64_t at = 0; at < section.sh_size; at += sizeof(ElfW(Sym))) {
        const auto symbol = read(section.sh_offset + at, ElfW(Sym){});
        if ((symbol.st_info & 15) == STT_FUNC && symbol.st_size > 0)
          functions_[symbol.st_value] = {symbol.st_size, image.c_str() + names.sh_offset + symbol.st_name};
      }
    }
  }
  /// Empty where the address is in no function of this program.
  [[nodiscard]] std::string at(void* address) const {
    const auto offset = reinterpret_cast<std::uint64_t>(address) - base_;
    auto next = functions_.upper_bound(offset);
    if (next == functions_.begin()) return {};
    const auto& [begin, function] = *--next;
    if (offset >= begin + function.first) return {};
    int status = 0;
    const auto suffix = function.second.find('.');  // of a clone
    char* plain = abi::__cxa_demangle(function.second.substr(0, suffix).c_str(), nullptr, nullptr, &status);
    const std::string name = status == 0 ? plain : function.second;
    std::free(plain);
    return name;
  }

 private:
  std::map<std::uint64_t, std::pair<std::uint64_t, std::string>> functions_;
  std::uint64_t base_ = 0;
};

/// The part of a step that a sample belongs to, and what it was in.
std::pair<std::string, std::string> place_of(const Sampled& sample, const std::string& symbol) {
  if (sample.call >= 0)  // whatever a product packs and stores is its own
    if (const Call& call = calls()[static_cast<std::size_t>(sample.call)]; !call.shape.empty())
      return {call.head ? "loss and head" : "products", call.shape};
  const auto has = [&](const char* part) { return symbol.find(part) != std::string::npos; };
  if (has("offsite::")) {
    const auto begin =
        symbol.find("Kernel") == std::string::npos ? 0 : symbol.rfind("::", symbol.find("Kernel")) + 2;
    const auto name =
        symbol.substr(begin, std::min<std::size_t>(symbol.find_first_of("<>,( ", begin) - begin, 40));
    if (has("AttentionKernel") || has("detail::Pair") || has("FloatProducts")) return {"attention", name};
    if (has("Activation") || has("Gated")) return {"activations", name};
    if (has("Norm")) return {"norms", name};
    if (has("LogSumExp")) return {"loss and head", name};
    if (has("Rope")) return {"attention", name};
    if (has("Adam") || has("SquaredNorm")) return {"optimiser", name};
    if (has("Kernel")) return {"memory traffic", name};
    return {"framework", name};
  }
  if (sample.call < 0) return {"framework", "outside operators"};
  const Call& call = calls()[static_cast<std::size_t>(sample.call)];
  const auto is = [&](const char* part) { return call.name.find(part) != std::string::npos; };
  if (is("layer_norm")) return {"norms", call.name};
  if (is("adamw") || is("vector_norm")) return {"optimiser", call.name};
  if (is("gelu") || is("silu") || is("relu") || is("sigmoid")) return {"activations", call.name};
  if (is("softmax") || is("cross_entropy")) return {"loss and head", call.name};
  return {"memory traffic", call.name};
}

}  // namespace

struct Meter::Impl {
  at::ScalarType type;
  std::int64_t trained = 0, steps = 0, rows = 0;
  std::uint64_t allocations = 0, bytes = 0;
  Usage begin, end;
  at::CallbackHandle handle = 0;
  PeakOfAnonymousMemory anonymous;
  void begin_counting() {
    counting = true;
    sampled_count = 0;
    for (Call& call : calls()) call.calls = 0, call.flop = 0;
    begin = Usage::read();
    allocations = CountingAllocator::count;
    bytes = CountingAllocator::bytes;
    CountingAllocator::peak = CountingAllocator::live.load();
  }
};

Meter::Meter(std::int64_t vocabulary, std::int64_t trained, at::ScalarType type, bool in_by_out)
    : impl_(std::make_unique<Impl>()) {
  vocabulary_size = vocabulary;
  stored_in_by_out = in_by_out;
  impl_->type = type;
  impl_->trained = trained;
}

void watch_allocations() { c10::SetCPUAllocator(new CountingAllocator(c10::GetCPUAllocator()), 255); }

void Meter::start() {
  sampled();
  impl_->handle =
      at::addThreadLocalCallback(at::RecordFunctionCallback(&on_begin, &on_end).needsInputs(true));
  offsite::ops::TiledProduct::observer = &on_tiled_product;
  struct sigaction action {};
  action.sa_sigaction = &on_timer;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  sigaction(SIGPROF, &action, nullptr);
  const itimerval every{{0, 1000}, {0, 1000}};
  setitimer(ITIMER_PROF, &every, nullptr);
}

void Meter::step_done(std::int64_t rows, bool counts) {
  if (!counts) {
    impl_->begin_counting();
    return;
  }
  impl_->end = Usage::read();
  ++impl_->steps;
  impl_->rows += rows;
}

Meter::~Meter() = default;

Budget Meter::finish() {
  counting = false;
  const itimerval never{};
  setitimer(ITIMER_PROF, &never, nullptr);
  at::removeCallback(impl_->handle);
  const auto steps = static_cast<double>(impl_->steps);
  const Usage used = impl_->end - impl_->begin;
  const auto all = std::min(sampled_count.load(), kMostSamples);
  std::map<std::string, std::map<std::string, double>> places;
  std::map<std::string, double> totals;
  std::map<void*, std::string> symbols;
  const Symbols functions;
  for (std::size_t i = 0; i < all; ++i) {
    const auto [found, added] = symbols.emplace(sampled()[i].at, "");
    if (added) found->second = functions.at(sampled()[i].at);
    const auto [part, what] = place_of(sampled()[i], found->second);
    places[part][what] += 1;
    totals[part] += 1;
  }
  Budget budget{.type = impl_->type == at::kFloat ? "float32" : "bfloat16",
                .threads = at::get_num_threads(),
                .trained = impl_->trained,
                .steps = impl_->steps,
                .rows = static_cast<double>(impl_->rows) / steps,
                .wall = used.wall / steps,
                .processor = (used.user + used.system) / steps,
                .system = used.system / steps,
                .faults = static_cast<double>(used.faults) / steps,
                .allocations = static_cast<double>(CountingAllocator::count - impl_->allocations) / steps,
                .allocated = static_cast<double>(CountingAllocator::bytes - impl_->bytes) / steps,
                .live = static_cast<double>(CountingAllocator::peak.load()),
                .anonymous = 1048576 * impl_->anonymous.mebibytes(),
                .resident = 1048576 * peak_resident()};
  std::map<std::string, double> flop;
  for (const Call& call : calls()) {
    flop[call.shape] += call.flop / steps;
    budget.flop += call.flop / steps;
    if (!call.head) budget.body += call.flop / steps;
    if (call.name != kTiledProduct) budget.operators += static_cast<double>(call.calls) / steps;
  }
  const double each = budget.processor / static_cast<double>(all);
  const auto sorted = [](const std::map<std::string, double>& from) {
    std::vector<std::pair<std::string, double>> list(from.begin(), from.end());
    std::sort(list.begin(), list.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
    return list;
  };
  for (const auto& [part, count] : sorted(totals)) {
    budget.lines.push_back({part, "", count * each, 0});
    for (const auto& [what, n] : sorted(places[part]))
      if (n >= 0.001 * static_cast<double>(all)) {
        const auto found = flop.find(what);
        budget.lines.push_back({part, what, n * each, found == flop.end() ? 0 : found->second});
      }
  }
  budget.floors = Floors::measure(impl_->type);
  return budget;
}

}  // namespace bench
