#!/usr/bin/env bash
# Sets up, builds and runs all tests; its last line is `N passed, N failed, N skipped` over all test programs.
#
#   tests/run.sh              everything but the longest
#   tests/run.sh --nightly    everything
#   tests/run.sh --quick      no sanitizers, no checks of the source: while writing code
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
source examples/setup.sh

nightly=0 quick=0
for word in "$@"; do
  case $word in
    --nightly) nightly=1 ;;
    --quick) quick=1 ;;
    *) say "usage: tests/run.sh [--nightly|--quick]"; exit 2 ;;
  esac
done
export OFFSITE_NIGHTLY=$nightly

began=$SECONDS
step() { say; say "=== $* ($(( (SECONDS - began) / 60 )) min since the start)"; }

# A log of one JSON object a test, as Meson writes it; a build that failed counts as one failure.
logs=()
broken=0
patience=1  # how many times the usual timeouts

# run_suites FOLDER SUITE...: builds everything the suites need and runs them, two at a time.
run_suites() {
  local folder=$1 suite words=()
  shift
  for suite in "$@"; do words+=(--suite "$suite"); done
  rm -f "$folder/meson-logs/testlog.json"
  build_with_ninja "$folder" --quiet -k 0 all meson-test-prereq || { say "[failed] the build in $folder"; broken=$((broken + 1)); }
  "$venv/bin/meson" test -C "$folder" --no-rebuild --num-processes 2 --timeout-multiplier $patience "${words[@]}" < /dev/null >&2
  logs+=("$folder/meson-logs/testlog.json")
}

set_up --tests

step "Tests, optimised, all warnings errors"
if configure build-tests --buildtype=plain -Doptimization=2 -Db_ndebug=false --werror -Dtests=enabled -Dexamples=enabled; then
  if [ $quick = 1 ]; then run_suites build-tests unit; else run_suites build-tests unit source; fi
else
  broken=$((broken + 1))
fi

if [ $quick = 0 ]; then
  step "Tests under AddressSanitizer and UndefinedBehaviorSanitizer"
  # Where a process may not look at itself, as in some containers, leaks cannot be looked for.
  leaks=0 probe=$(mktemp)
  echo 'int main() {}' | g++ -fsanitize=address -x c++ - -o "$probe" && ASAN_OPTIONS=detect_leaks=1 "$probe" 2> /dev/null && leaks=1
  rm -f "$probe"
  [ $leaks = 1 ] || say "leaks are not looked for: not possible here"
  export ASAN_OPTIONS=detect_leaks=$leaks:halt_on_error=1:abort_on_error=1
  export UBSAN_OPTIONS=halt_on_error=1:abort_on_error=1:print_stacktrace=1
  # LibTorch is not instrumented and hides some of its types, so -fsanitize=vptr cannot link.
  # Not optimised: that compiles in less than half the time, and what the tests run is small. The simulation of
  # a federation's faults takes a twentieth of its runs.
  export OFFSITE_FEDERATION_RUNS=1000
  patience=3
  if configure build-sanitize --buildtype=plain -Doptimization=0 -Db_ndebug=false -Db_sanitize=address,undefined \
      -Db_lundef=false -Dcpp_args=-fno-sanitize=vptr -Dtests=enabled -Dexamples=enabled; then
    run_suites build-sanitize unit
  else
    broken=$((broken + 1))
  fi
fi

step "Done"
python3 tests/summary.py "$broken" "${logs[@]}"
