#ifndef NDEBUG
#define NDEBUG  // as LibTorch was built: the layout of at::RecordFunction depends on it
#endif
#include "step_profile/meter.hpp"

#include <ATen/Parallel.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
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
#include <thread>
#include <vector>

#include "common.hpp"
#include "offsite/core/process.hpp"
#include "offsite/core/tensor_arena.hpp"

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
  double flop = 0;  // of one call
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

std::string text_of(const at::Tensor& t) {
  const bool transposed = t.stride(0) == 1 && t.stride(1) > 1;
  return std::to_string(t.size(0)) + "x" + std::to_string(t.size(1)) + (transposed ? "'" : "");
}

std::unique_ptr<at::ObserverContext> on_begin(const at::RecordFunction& f) {
  Call call{f.name(), {}};
  const bool product = call.name == "aten::mm", sum = call.name.starts_with("aten::addmm");
  if (product || sum) {
    const auto inputs = f.inputs();
    const auto &a = inputs[sum ? 1 : 0].toTensor(), &b = inputs[sum ? 2 : 1].toTensor();
    call.shape = text_of(a) + " " + text_of(b);
    call.flop = 2.0 * static_cast<double>(a.size(0)) * static_cast<double>(a.size(1)) *
                static_cast<double>(b.size(1));
    call.head = a.size(1) == vocabulary_size || b.size(1) == vocabulary_size;
  }
  const auto [found, added] =
      call_numbers().emplace(call.name + call.shape, static_cast<std::int32_t>(calls().size()));
  if (added) calls().push_back(call);
  if (counting) ++calls()[static_cast<std::size_t>(found->second)].calls;
  call_stack().push_back(found->second);
  running = found->second;
  return nullptr;
}
void on_end(const at::RecordFunction&, at::ObserverContext*) {
  call_stack().pop_back();
  running = call_stack().empty() ? -1 : call_stack().back();
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
  const auto has = [&](const char* part) { return symbol.find(part) != std::string::npos; };
  if (has("offsite::")) {
    const auto begin =
        symbol.find("Kernel") == std::string::npos ? 0 : symbol.rfind("::", symbol.find("Kernel")) + 2;
    const auto name =
        symbol.substr(begin, std::min<std::size_t>(symbol.find_first_of("<>,( ", begin) - begin, 40));
    if (has("AttentionKernel")) return {"attention", name};
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
  if (call.flop > 0) return {call.head ? "loss and head" : "products", call.name + " " + call.shape};
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
  std::atomic<bool> watching{false};
  std::atomic<std::int64_t> anonymous{0};
  std::int64_t anonymous_before = offsite::anonymous_memory();
  std::thread watcher;
  void begin_counting() {
    counting = true;
    sampled_count = 0;
    for (Call& call : calls()) call.calls = 0;
    begin = Usage::read();
    allocations = CountingAllocator::count;
    bytes = CountingAllocator::bytes;
    CountingAllocator::peak = CountingAllocator::live.load();
  }
};

Meter::Meter(std::int64_t vocabulary, std::int64_t trained, at::ScalarType type)
    : impl_(std::make_unique<Impl>()) {
  vocabulary_size = vocabulary;
  impl_->type = type;
  impl_->trained = trained;
}

void watch_allocations() { c10::SetCPUAllocator(new CountingAllocator(c10::GetCPUAllocator()), 255); }

void Meter::start() {
  sampled();
  impl_->handle =
      at::addThreadLocalCallback(at::RecordFunctionCallback(&on_begin, &on_end).needsInputs(true));
  struct sigaction action {};
  action.sa_sigaction = &on_timer;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  sigaction(SIGPROF, &action, nullptr);
  const itimerval every{{0, 1000}, {0, 1000}};
  setitimer(ITIMER_PROF, &every, nullptr);
  impl_->watching = true;
  impl_->watcher = std::thread([this] {
    while (impl_->watching) {
      impl_->anonymous = std::max(impl_->anonymous.load(), offsite::anonymous_memory());
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  });
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

Meter::~Meter() {
  impl_->watching = false;
  if (impl_->watcher.joinable()) impl_->watcher.join();
}

void Meter::print() {
  counting = false;
  const itimerval never{};
  setitimer(ITIMER_PROF, &never, nullptr);
  at::removeCallback(impl_->handle);
  const auto allocations = CountingAllocator::count - impl_->allocations,
             bytes = CountingAllocator::bytes - impl_->bytes;
  const auto peak = CountingAllocator::peak.load();

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
  double flop = 0, body = 0;
  for (const Call& call : calls()) {
    flop += call.flop * static_cast<double>(call.calls);
    if (!call.head) body += call.flop * static_cast<double>(call.calls);
  }
  const double cpu = used.user + used.system, each_sample = cpu / static_cast<double>(all);

  std::printf("%s, %d threads, %lld numbers train, %lld steps of %.0f rows\n",
              impl_->type == at::kFloat ? "float32" : "bfloat16", at::get_num_threads(),
              static_cast<long long>(impl_->trained), static_cast<long long>(impl_->steps),
              static_cast<double>(impl_->rows) / steps);
  std::printf("useful products        %8.1f Gflop a step, %.1f of them outside the head\n",
              1e-9 * flop / steps, 1e-9 * body / steps);
  std::printf("processor time         %8.1f ms a step, %.1f of it in the system\n", 1e3 * cpu / steps,
              1e3 * used.system / steps);
  std::printf("page faults            %8.1f a step (minor)\n", static_cast<double>(used.faults) / steps);
  std::printf("allocations of LibTorch%8.1f a step, %.1f MB; %.1f MB at once at most\n",
              static_cast<double>(allocations) / steps, 1e-6 * static_cast<double>(bytes) / steps,
              1e-6 * static_cast<double>(peak));
  std::printf("anonymous memory       %8.1f MB at most; resident with files %.1f MB at most\n",
              1e-6 * static_cast<double>(impl_->anonymous), 1.048576 * peak_resident());

  if (const auto arena = offsite::TensorArena::figures(); arena.reached > 0)
    std::printf("the arena of tensors   %8.1f MB of it; at the beginning there were %.1f MB\n",
                1e-6 * static_cast<double>(arena.reached),
                1e-6 * static_cast<double>(impl_->anonymous_before));

  const auto sorted = [](const std::map<std::string, double>& from) {
    std::vector<std::pair<std::string, double>> list(from.begin(), from.end());
    std::sort(list.begin(), list.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
    return list;
  };
  std::printf("\n%-16s %7s %9s\n", "part", "share", "ms a step");
  for (const auto& [part, count] : sorted(totals)) {
    const auto line = [&](const std::string& name, double n, double rate) {
      std::printf("%-58s %6.2f %% %8.2f", name.c_str(), 100 * n / static_cast<double>(all),
                  1e3 * n * each_sample / steps);
      if (rate > 0) std::printf("  %6.1f Gflop/s", rate);
      std::printf("\n");
    };
    line(part, count, 0);
    for (const auto& [what, n] : sorted(places[part])) {
      if (n < 0.001 * static_cast<double>(all)) continue;
      double rate = 0;
      for (const Call& call : calls())
        if (call.flop > 0 && call.name + " " + call.shape == what)
          rate = 1e-9 * call.flop * static_cast<double>(call.calls) / (n * each_sample);
      line("  " + what, n, rate);
    }
  }
  std::printf("\nGflop/s are of one processor's time, while it runs; the products' own speed is\n");
  const c10::NoGradGuard no_grad;
  const at::Tensor x = at::ones({1472, 768}, impl_->type), w = at::ones({768, 3072}, impl_->type);
  double best = 1e9;
  for (int i = 0; i < 40; ++i) {
    const Usage before = Usage::read();
    for (int k = 0; k < 3; ++k) at::mm(x, w);
    const Usage taken = Usage::read() - before;
    best = std::min(best, (taken.user + taken.system) / 3);
  }
  std::printf("%.1f Gflop/s (1472x768 768x3072)\n", 2e-9 * 1472 * 768 * 3072 / best);
}

}  // namespace bench
