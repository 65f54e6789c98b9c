#include "offsite/session.hpp"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <string_view>

#include "offsite/core/error.hpp"
#include "offsite/core/process.hpp"
#include "offsite/core/tensor_arena.hpp"
#include "offsite/core/version.hpp"
#include "offsite/io/json.hpp"

namespace program {

Session::Session(std::string command, const CommonArguments& common)
    : command_(std::move(command)), common_(common) {
  using offsite::require;
  require(common_.threads >= 0, "--threads is {}, but it must be positive, or 0 for all processors",
          common_.threads);
  require(common_.device == "auto" || common_.device == "cpu",
          "--device is {}, but this program computes on the CPU alone: give auto or cpu", common_.device);
  const auto& dtype = common_.dtype;
  require(dtype != "float16",
          "--dtype is float16, which the CPU does not compute in: give float32 or bfloat16");
  require(dtype == "auto" || dtype == "float32" || dtype == "bfloat16",
          "--dtype is {}, but there are auto, float32, bfloat16 and float16", dtype);
  offsite::keep_freed_memory();
  offsite::keep_few_products();
  offsite::TensorArena::install();
  // Late in training AdamW's second moments become denormal, which is slow; before the threads start, or they keep
  // their own setting.
  at::globalContext().setFlushDenormal(true);
  if (common_.threads > 0) at::set_num_threads(common_.threads);
  // The kernel keeps no peak of anonymous memory alone, so it is looked at now and then: seldom, since each time takes a
  // processor from a thread that computes, for which the others wait. Memory of tensors stays once it was needed.
  sampler_ = std::thread([this] {
    std::unique_lock lock(mutex_);
    do {
      peak_memory_ = std::max(peak_memory_.load(), offsite::anonymous_memory());
    } while (!end_.wait_for(lock, std::chrono::milliseconds(100), [this] { return ended_; }));
  });
}

Session::~Session() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  end_.notify_one();
  if (sampler_.joinable()) sampler_.join();
}

void Session::say(const std::string& text) const {
  if (!common_.quiet) std::fprintf(stderr, "%s\n", text.c_str());
}

void Session::finish() {
  if (common_.json.empty()) return;
  results["command"] = command_;
  results["version"] = offsite::kVersion;
  results["seed"] = common_.seed;
  results["dtype"] = dtype_;
  results["device"] = "cpu";
  results["threads"] = at::get_num_threads();
  results["wall_seconds"] =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - started_).count();
  results["peak_memory_bytes"] = std::max(peak_memory_.load(), offsite::anonymous_memory());
  writing([&] { offsite::write_json(common_.json, results); });
}

void writing(const std::function<void()>& write) {
  try {
    write();
  } catch (const offsite::ArgumentError& error) {
    throw offsite::Error(error.what());
  }
}

namespace {
volatile std::sig_atomic_t stop_requested = 0;
extern "C" void request_stop(int signal) {
  if (stop_requested != 0) {
    std::signal(signal, SIG_DFL);
    std::raise(signal);
  }
  stop_requested = 1;
}
}  // namespace

void listen_for_interrupts() {
  std::signal(SIGINT, request_stop);
  std::signal(SIGTERM, request_stop);
}

bool interrupted() { return stop_requested != 0; }

std::vector<std::int64_t> parse_blocks(const std::string& text, const char* option) {
  std::vector<std::int64_t> blocks;
  const char* at = text.data();
  const char* const end = at + text.size();
  const auto number = [&] {
    std::int64_t value = 0;
    const auto [next, error] = std::from_chars(at, end, value);
    offsite::require(error == std::errc{} && value >= 0 && value < 1'000'000,
                     "{} is \"{}\", but it must be block numbers such as 0,3-5", option, text);
    at = next;
    return value;
  };
  for (;;) {
    const auto first = number();
    auto last = first;
    if (at != end && *at == '-') {
      ++at;
      last = number();
    }
    offsite::require(first <= last, "{} is \"{}\", in which {} comes after {}", option, text, first, last);
    for (auto i = first; i <= last; ++i) blocks.push_back(i);
    if (at == end) break;
    offsite::require(*at == ',', "{} is \"{}\", but it must be block numbers such as 0,3-5", option, text);
    ++at;
  }
  std::sort(blocks.begin(), blocks.end());
  const auto twice = std::adjacent_find(blocks.begin(), blocks.end());
  offsite::require(twice == blocks.end(), "{} is \"{}\", which names block {} twice", option, text,
                   twice == blocks.end() ? 0 : *twice);
  return blocks;
}

std::int64_t parse_size(const std::string& text, const char* option) {
  const char* const end = text.data() + text.size();
  double value = -1;
  const auto [stop, error] = std::from_chars(text.data(), end, value, std::chars_format::fixed);
  std::string unit;
  for (const char* at = stop; at != end; ++at)
    if (*at != ' ') unit += static_cast<char>(std::tolower(static_cast<unsigned char>(*at)));
  if (unit.ends_with('b')) unit.pop_back();
  double factor = unit.ends_with('i') ? 1024 : 1000;
  if (unit.ends_with('i')) unit.pop_back();
  constexpr std::string_view kPrefixes = "kmgtpe";
  bool known = error == std::errc{} && (unit.size() == 1 || (unit.empty() && factor == 1000));
  if (known && !unit.empty()) {
    const auto power = kPrefixes.find(unit[0]);
    known = power != kPrefixes.npos;
    for (std::size_t i = 0; known && i <= power; ++i) value *= factor;
  }
  constexpr double kTooMany = 9.2e18;
  offsite::require(
      known && 0 <= value && value < kTooMany,
      "{} is {}, but it must be a number of bytes from 0 to 9.2e18, alone or with one of kB, MB, GB, "
      "TB, PB, EB or KiB, MiB, GiB, TiB, PiB, EiB, such as 2GB",
      option, text);
  return static_cast<std::int64_t>(value);
}

std::string blocks_text(const std::vector<std::int64_t>& blocks) {
  std::string text;
  for (std::size_t i = 0; i < blocks.size();) {
    std::size_t j = i;
    while (j + 1 < blocks.size() && blocks[j + 1] == blocks[j] + 1) ++j;
    text += fmt::format("{}{}", text.empty() ? "" : ", ", blocks[i]);
    if (j > i) text += fmt::format("{}{}", j > i + 1 ? "-" : ", ", blocks[j]);
    i = j + 1;
  }
  return text.empty() ? "none" : text;
}

std::string bytes_text(std::int64_t bytes) {
  double value = static_cast<double>(bytes);
  const char* unit = "bytes";
  for (const char* next : {"kB", "MB", "GB", "TB"}) {
    if (value < 1000) break;
    value /= 1000;
    unit = next;
  }
  return bytes < 1000 ? fmt::format("{} bytes", bytes) : fmt::format("{:.1f} {}", value, unit);
}

}  // namespace program
