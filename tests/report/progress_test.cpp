#include "offsite/report/progress.hpp"

#include <fcntl.h>

#include <cstdlib>
#include <memory>

#include "support/test.hpp"

namespace progress_test {

using namespace offsite;

namespace {

/// A clock that the tests set.
struct FakeClock {
  using time_point = std::chrono::time_point<FakeClock, std::chrono::duration<double>>;
  static inline double seconds = 0;
  static time_point now() { return time_point(std::chrono::duration<double>(seconds)); }
};

using Stream = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;

/// What a report of 100 steps writes to a file while `work` updates it, with the clock at 0 in the beginning.
template <class Work>
std::string written(ProgressOptions options, const Work& work) {
  const support::TemporaryFolder folder;
  {
    const Stream out(std::fopen((folder / "out").c_str(), "wb"), &std::fclose);
    options.out = out.get();
    FakeClock::seconds = 0;
    BasicProgress<FakeClock> progress(options);
    work(progress);
  }
  return support::read_file(folder / "out");
}

/// The same on a terminal of that many columns; empty if the machine has no pseudo-terminals.
template <class Work>
std::string drawn(ProgressOptions options, unsigned short columns, const Work& work) {
  const Stream master(fdopen(posix_openpt(O_RDWR | O_NOCTTY), "rb"),
                      [](std::FILE* f) { return f ? std::fclose(f) : 0; });
  if (!master || grantpt(fileno(master.get())) != 0 || unlockpt(fileno(master.get())) != 0) return {};
  const Stream out(std::fopen(ptsname(fileno(master.get())), "wb"), &std::fclose);
  const winsize size{24, columns, 0, 0};
  REQUIRE(ioctl(fileno(out.get()), TIOCSWINSZ, &size) == 0);
  options.out = out.get();
  FakeClock::seconds = 0;
  {
    BasicProgress<FakeClock> progress(options);
    work(progress);
  }
  std::fputs("END", out.get());
  std::fflush(out.get());
  std::string text;
  while (!text.ends_with("END")) text += static_cast<char>(std::fgetc(master.get()));
  return text.substr(0, text.size() - 3);
}

}  // namespace

TEST_CASE("Progress: plain lines at intervals where no terminal is") {
  const auto text = written({.label = "train", .total = 100}, [](auto& progress) {
    for (int step = 1; step <= 30; ++step) {
      FakeClock::seconds = step;
      progress.update({.done = step, .loss = step == 20 ? 2.34567 : 3.0, .tokens = step * 1500});
    }
    FakeClock::seconds = 50;
    progress.update({.done = 100, .tokens = 150000});
    progress.finish();
    progress.finish();
  });
  CHECK(text ==
        "train  10%  10/100 steps  loss 3  1:30 left  1.00 steps/s  1.50k tokens/s\n"
        "train  20%  20/100 steps  loss 2.346  1:20 left  1.00 steps/s  1.50k tokens/s\n"
        "train  30%  30/100 steps  loss 3  1:10 left  1.00 steps/s  1.50k tokens/s\n"
        "train 100%  100/100 steps  loss 3  50s  2.00 steps/s  3.00k tokens/s\n");
}

TEST_CASE("Progress: quiet writes nothing; notes are lines; a resumed run's rate counts its own steps") {
  const auto all = [](auto& progress) {
    progress.note("hello");
    FakeClock::seconds = 10;
    progress.update({.done = 60});
    progress.finish();
  };
  CHECK(written({.total = 100, .quiet = true}, all).empty());
  CHECK(written({.total = 100, .begin = 50, .line_seconds = 60}, all) ==
        "hello\n 60%  60/100 steps  40s left  1.00 steps/s\n");
  CHECK_THROWS_AS(Progress({.total = -1}), ArgumentError);
}

TEST_CASE("Progress: work that began before its report counts with its time") {
  const auto text = written({.label = "train", .total = 100, .seconds = 4}, [](auto& progress) {
    progress.update({.done = 2, .tokens = 100});
    progress.finish();
  });
  CHECK(text == "train   2%  2/100 steps  3:16 left  0.5000 steps/s  25.0 tokens/s\n");
}

TEST_CASE("Progress: redraws in place on a terminal, within its width") {
  const auto work = [](auto& progress) {
    progress.update({.done = 0});
    for (int step = 1; step <= 100; ++step) {
      FakeClock::seconds = step * 0.01;
      progress.update({.done = step});
    }
    progress.note("note");
    progress.finish();
  };
  const auto text = drawn({.label = "train", .total = 100}, 40, work);
  if (text.empty()) return support::skip("there are no pseudo-terminals");
  CHECK(std::count(text.begin(), text.end(), '\n') == 2);  // the note's and the end's
  const auto drawings =
      std::count(text.begin(), text.end(), '\r') - 2;  // the terminal puts one before each \n
  CHECK(drawings >= 11);
  CHECK(drawings <= 14);
  CHECK(text.find("\r\033[Knote\r\n") != std::string::npos);
  std::string_view rest = text;
  while (!rest.empty()) {
    const auto end = std::min(rest.find_first_of("\r\n"), rest.size() - 1) + 1;
    CHECK(display_width(rest.substr(0, end)) <= 39 + 4);  // \033[K and the line's end
    rest.remove_prefix(end);
  }
  const auto broken = drawn({.total = 5}, 80, [](auto& progress) { progress.update({.done = 1}); });
  CHECK(broken.ends_with("\n"));
}

TEST_CASE("progress_line: fits any width") {
  const ProgressState state{.label = "évaluer",
                            .done = 12,
                            .total = 345,
                            .rate = 3.21,
                            .loss = 0.123456,
                            .tokens_per_second = 98765,
                            .seconds = 4};
  CHECK(
      progress_line(state, 100) ==
      "évaluer   3% [.................]  12/345 steps  loss 0.1235  1:44 left  3.21 steps/s  98.8k tokens/s");
  CHECK(progress_line(state, 60) == "évaluer   3% [..................]  12/345 steps  loss 0.1235");
  for (std::int64_t width = 1; width < 140; ++width) {
    CHECK(display_width(std::string_view(progress_line(state, width))) <= width);
    CHECK(display_width(std::string_view(progress_line({.done = 5, .seconds = 9}, width))) <= width);
  }
  CHECK(progress_line({.unit = "rows", .done = 5, .rate = 2, .seconds = 9}) == "5 rows  9s  2.00 rows/s");
  CHECK(progress_line({.total = 5}) == "  0%  0/5 steps  ? left");
}

TEST_CASE("progress: durations and rates read well") {
  CHECK(duration_text(7.4) == "7s");
  CHECK(duration_text(59.6) == "1:00");
  CHECK(duration_text(185) == "3:05");
  CHECK(duration_text(7385) == "2:03:05");
  CHECK(duration_text(4 * 86400 + 7500) == "4d 02h");
  for (const double odd : {-1.0, 1e300, std::numeric_limits<double>::infinity()})
    CHECK(duration_text(odd) == "?");
  CHECK(rate_text(0.01234) == "0.0123");
  CHECK(rate_text(12.34) == "12.3");
  CHECK(rate_text(999.4) == "999");
  CHECK(rate_text(999.6) == "1.00k");
  CHECK(rate_text(45.6e6) == "45.6M");
}

}  // namespace progress_test
