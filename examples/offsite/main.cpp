#include <c10/util/Exception.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <vector>

#include "offsite/command_line.hpp"
#include "offsite/config_file.hpp"
#include "offsite/core/error.hpp"
#include "offsite/core/version.hpp"

namespace {

constexpr int kWrongUse = 2, kFailure = 1;

int fail(const std::string& message, int status) {
  std::fprintf(stderr, "error: %s\n", message.c_str());
  return status;
}

/// Lets waiting threads of OpenMP sleep after some microseconds instead of spinning for milliseconds: on a machine that
/// others use too, a spinning thread keeps the one that it waits for from running, and training slows down a hundredfold.
/// OpenMP reads this when it is loaded, before main, so the program starts itself again. The user's own setting wins.
void sleep_soon_when_waiting(char** argv) {
  if (std::getenv("OMP_WAIT_POLICY") != nullptr || std::getenv("GOMP_SPINCOUNT") != nullptr) return;
  if (setenv("GOMP_SPINCOUNT", "2000", 1) == 0)
    execv("/proc/self/exe", argv);  // if it fails, all goes on as it is
}

/// The first line of a text: LibTorch's messages go on with a stack.
std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

int run(std::vector<std::string> words) {
  CLI::App app(
      "Offsite-Tuning: a model's owner and a data's owner improve the model, and neither hands theirs over.",
      "offsite");
  app.set_version_flag("--version", std::string(offsite::kVersion));
  app.require_subcommand(1);
  app.footer(
      "Each subcommand has its own --help. Results go to standard output, all else to standard error;\n"
      "the exit status is 0, 2 for wrong use, or 1 for every other failure.");
  program::add_split_command(app);
  program::add_inspect_command(app);
  program::add_train_command(app);
  program::add_plug_in_command(app);
  program::add_evaluate_command(app);
  program::add_serve_command(app);
  program::add_join_command(app);
  program::add_simulate_command(app);
  program::add_runs_command(app);
  program::add_compare_command(app);
  program::add_score_command(app);
  program::add_generate_command(app);
  program::add_tokenize_command(app);
  program::add_certificates_command(app);
  if (words.empty()) {
    std::fputs(app.help().c_str(), stdout);
    return 0;
  }
  try {
    words = program::with_config_file(std::move(words));
    std::reverse(words.begin(), words.end());  // CLI11 takes them from the back
    app.parse(words);
    return 0;
  } catch (const CLI::Success& asked) {  // --help, --version
    return app.exit(asked);
  } catch (const CLI::ParseError& error) {
    const auto chosen = app.get_subcommands();
    return fail(std::string(error.what()) + "; see offsite " +
                    (chosen.empty() ? "" : chosen.front()->get_name() + " ") + "--help",
                kWrongUse);
  } catch (const offsite::ArgumentError& error) {
    return fail(error.what(), kWrongUse);
  }
}

}  // namespace

int main(int argc, char** argv) {
  sleep_soon_when_waiting(argv);
  try {
    return run({argv + 1, argv + argc});
  } catch (const c10::Error& error) {
    return fail(first_line(error.what_without_backtrace()), kFailure);
  } catch (const std::bad_alloc&) {
    return fail("there is not enough memory", kFailure);
  } catch (const std::exception& error) {
    return fail(error.what(), kFailure);
  }
}
