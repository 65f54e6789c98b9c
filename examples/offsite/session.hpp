#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "offsite/arguments.hpp"
#include "offsite/io/json_value.hpp"

namespace program {

/// One run of a subcommand: sets up threads and memory, collects the results, and writes them at the end.
class Session {
 public:
  /// \throws offsite::ArgumentError for threads, device or dtype that cannot be had.
  Session(std::string command, const CommonArguments& common);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  /// The fields of `--json`, beside those that every command has.
  offsite::Json results = offsite::Json::object();

  /// A line for people on standard error, unless they asked for quiet.
  void say(const std::string& text) const;
  /// The name of the type that was computed in, once it is known.
  void computes_in(const std::string& dtype) { dtype_ = dtype; }
  /// Writes `--json FILE`, if asked for. \throws offsite::Error if that cannot be written.
  void finish();

  [[nodiscard]] const CommonArguments& common() const { return common_; }

 private:
  std::string command_;
  CommonArguments common_;
  std::string dtype_ = "none";
  std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
  std::atomic<std::int64_t> peak_memory_{0};
  std::mutex mutex_;  // of what follows
  std::condition_variable end_;
  bool ended_ = false;
  std::thread sampler_;
};

/// Runs `write` so that an ArgumentError in it, such as a full disk, counts as a failure and not as wrong use.
void writing(const std::function<void()>& write);

/// Asks for a stop at the next step when the user presses Ctrl-C or the process is told to end; a second time ends it at once.
void listen_for_interrupts();
[[nodiscard]] bool interrupted();

/// Blocks as "0,3-5" names them, ascending. \throws offsite::ArgumentError naming the option.
[[nodiscard]] std::vector<std::int64_t> parse_blocks(const std::string& text, const char* option);
/// Bytes as "2GB", "1.5 GiB" or "4096" name them. \throws offsite::ArgumentError naming the option.
[[nodiscard]] std::int64_t parse_size(const std::string& text, const char* option);
/// "0-3, 5": the other way round, for people.
[[nodiscard]] std::string blocks_text(const std::vector<std::int64_t>& blocks);
/// 1234567 -> "1.2 MB".
[[nodiscard]] std::string bytes_text(std::int64_t bytes);

}  // namespace program
