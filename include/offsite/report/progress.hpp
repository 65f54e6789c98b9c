#pragma once
#include <sys/ioctl.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <string>
#include <string_view>
#include <utility>

#include "offsite/core/error.hpp"
#include "offsite/report/progress_line.hpp"

namespace offsite {

/// What a progress report is about, and where it goes.
struct ProgressOptions {
  std::string label = {};       ///< what is being done: "train"
  std::int64_t total = 0;       ///< units of all the work; 0 = unknown
  std::string unit = "steps";   ///< what is counted
  std::int64_t begin = 0;       ///< units done before this run, which say nothing about its rate
  double seconds = 0;           ///< that the work has taken when the report is made, >= 0
  bool quiet = false;           ///< write nothing at all
  double redraw_seconds = 0.1;  ///< shortest time between two drawings on a terminal
  double line_seconds = 10;     ///< shortest time between two plain lines, where no terminal is
  std::FILE* out = stderr;      ///< stays open
};

/// What one update tells.
struct ProgressUpdate {
  std::int64_t done = 0;                                   ///< units finished so far, `begin` included
  double loss = std::numeric_limits<double>::quiet_NaN();  ///< NaN = as before
  std::int64_t tokens = 0;  ///< tokens worked on in this run so far; 0 = not counted
};

/// Shows how far long work is: a bar redrawn in place on a terminal, a plain line now and then elsewhere.
///
/// Cheap enough to be told of every step. `Clock` is for tests.
template <class Clock = std::chrono::steady_clock>
class BasicProgress {
 public:
  explicit BasicProgress(ProgressOptions options)
      : options_(std::move(options)), terminal_(!options_.quiet && isatty(fileno(options_.out)) == 1) {
    require(options_.total >= 0, "the total of a progress report is {}, but cannot be negative",
            options_.total);
    require(options_.seconds >= 0, "the work of a progress report is said to have taken {} seconds so far",
            options_.seconds);
    last_.done = options_.begin;
  }
  BasicProgress(const BasicProgress&) = delete;
  BasicProgress& operator=(const BasicProgress&) = delete;

  /// Leaves a drawn bar standing, so that what comes next begins on a line of its own.
  ~BasicProgress() {
    if (drawn_) std::fputc('\n', options_.out);
  }

  /// Notes where the work stands, and shows it if the last showing is long enough ago.
  void update(const ProgressUpdate& update) {
    const double loss = last_.loss;
    last_ = update;
    fresh_ = true;
    if (std::isnan(last_.loss)) last_.loss = loss;
    const double interval = terminal_ ? options_.redraw_seconds : options_.line_seconds;
    if (!options_.quiet && (seconds() - shown_at_ >= interval || (terminal_ && !drawn_))) show();
  }

  /// Writes a line of text above the bar.
  void note(std::string_view text) {
    if (options_.quiet) return;
    if (drawn_) std::fputs("\r\033[K", options_.out);
    std::fprintf(options_.out, "%.*s\n", static_cast<int>(text.size()), text.data());
    if (drawn_) show();
  }

  /// Shows the last state and ends the report; further calls do nothing.
  void finish() {
    if (options_.quiet || finished_) return;
    if (terminal_ || fresh_) show();
    if (drawn_) std::fputc('\n', options_.out);
    drawn_ = false;
    finished_ = true;
  }

 private:
  [[nodiscard]] double seconds() const {
    return options_.seconds + std::chrono::duration<double>(Clock::now() - started_).count();
  }

  [[nodiscard]] std::int64_t columns() const {
    winsize size{};
    const bool known = ioctl(fileno(options_.out), TIOCGWINSZ, &size) == 0 && size.ws_col > 1;
    return known ? size.ws_col - 1 : 79;  // the last column stays free: some terminals wrap there
  }

  void show() {
    if (finished_) return;
    shown_at_ = seconds();
    fresh_ = false;
    ProgressState state{.label = options_.label,
                        .unit = options_.unit,
                        .done = last_.done,
                        .total = options_.total,
                        .loss = last_.loss,
                        .seconds = shown_at_};
    if (shown_at_ > 0) {
      state.rate = static_cast<double>(last_.done - options_.begin) / shown_at_;
      state.tokens_per_second = static_cast<double>(last_.tokens) / shown_at_;
    }
    const auto line = progress_line(state, terminal_ ? columns() : 0);
    if (terminal_)
      std::fprintf(options_.out, "\r%s\033[K", line.c_str());
    else
      std::fprintf(options_.out, "%s\n", line.c_str());
    std::fflush(options_.out);
    drawn_ = terminal_;
  }

  ProgressOptions options_;
  bool terminal_;
  bool drawn_ = false;  ///< a bar stands on the terminal's current line
  bool finished_ = false;
  bool fresh_ = true;  ///< the last state was not shown yet
  ProgressUpdate last_;
  typename Clock::time_point started_ = Clock::now();
  double shown_at_ = 0;
};

using Progress = BasicProgress<>;

}  // namespace offsite
