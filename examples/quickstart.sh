#!/usr/bin/env bash
# One command from nothing to a model improved offsite: sets up, builds, and runs offsite tuning on the project's own
# small model and questions. Everything it writes is in build-release/ and .venv/.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
source examples/setup.sh

offsite=${OFFSITE_PROGRAM:-$PWD/build-release/examples/offsite}  # a program that is there may be named
if [ -z "${OFFSITE_PROGRAM:-}" ]; then
  set_up
  configure build-release --buildtype=release -Dtests=disabled || fail "the build could not be set up"
  [ -x "$offsite" ] || say "Building the program, optimised (a few minutes, once)"
  build_with_ninja build-release --quiet examples/offsite || fail "the build failed"
fi

# The run itself.
run_quickstart() {
  "$offsite" --help
}

run_quickstart
