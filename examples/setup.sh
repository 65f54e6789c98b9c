#!/usr/bin/env bash
# Puts in place what building needs: system packages (as root on Debian or Ubuntu), a .venv with Meson and Ninja, and
# LibTorch. What is there is used; a second run changes nothing and takes a moment.
#
#   examples/setup.sh            what building the program needs
#   examples/setup.sh --tests    what all tests need, too
#
# OFFSITE_PIP_ARGS is passed to every `pip install`, for instance to name an index; CMAKE_PREFIX_PATH names a LibTorch.
# quickstart.sh and tests/run.sh source this file and call `set_up`, `configure` and `build_with_ninja`.

offsite_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv="$offsite_root/.venv"

say() { printf '%s\n' "$*" >&2; }
fail() { say "error: $*"; exit 1; }

# Prints the Debian packages that lack; "$1" is --tests to ask for those of the tests, too.
missing_packages() {
  command -v g++ > /dev/null || { echo g++ libfmt-dev libeigen3-dev rapidjson-dev libssl-dev libcli11-dev libsentencepiece-dev libsqlite3-dev libgrpc++-dev; }
  command -v pkg-config > /dev/null || echo pkg-config
  command -v ccache > /dev/null || echo ccache
  [ -x "$venv/bin/python" ] || python3 -c 'import ensurepip, venv' 2> /dev/null || echo python3-venv
  if [ "${1:-}" = --tests ]; then
    command -v clang++ > /dev/null || echo clang
    command -v cmake > /dev/null || echo cmake
  fi
  if command -v g++ > /dev/null; then
    # One run of the preprocessor finds all headers that lack, wherever the compiler looks for them.
    local header package probe=""
    while read -r header package; do
      [ "$package" = doctest-dev ] && [ "${1:-}" != --tests ] && continue
      probe+=$'#if !__has_include(<'"$header"$'>)\n'"lacks $package"$'\n#endif\n'
    done <<'EOF'
fmt/format.h libfmt-dev
eigen3/Eigen/Core libeigen3-dev
rapidjson/reader.h rapidjson-dev
openssl/evp.h libssl-dev
sentencepiece_processor.h libsentencepiece-dev
sqlite3.h libsqlite3-dev
grpcpp/grpcpp.h libgrpc++-dev
CLI/CLI.hpp libcli11-dev
doctest/doctest.h doctest-dev
EOF
    printf '%s' "$probe" | g++ -std=c++20 -E -P -x c++ - | sed -n 's/^lacks //p'
  fi
}

install_packages() {
  local packages
  packages=$(missing_packages "${1:-}" | tr '\n' ' ')
  packages=${packages% }
  [ -z "$packages" ] && return
  command -v apt-get > /dev/null ||
    fail "these are needed (by their names in Debian): $packages. Install them with your system's package manager, then run this again."
  local command="apt-get install -y --no-install-recommends $packages"
  [ "$(id -u)" = 0 ] || fail "system packages lack: $packages. Install them with
  sudo apt-get update && sudo $command
then run this again."
  say "Installing system packages: $packages"
  export DEBIAN_FRONTEND=noninteractive
  # The lists may be there and fresh; if not, or if they are stale, fetch them and try again.
  $command < /dev/null > /dev/null 2>&1 && return
  apt-get update < /dev/null >&2 || say "apt-get update failed; trying with the lists that are there"
  $command < /dev/null >&2 || fail "could not install: $packages"
}

pip_install() { "$venv/bin/python" -m pip install --disable-pip-version-check --quiet ${OFFSITE_PIP_ARGS:-} "$@" < /dev/null >&2; }

make_venv() {
  if ! "$venv/bin/python" -c '' 2> /dev/null; then
    say "Making $venv"
    rm -rf "$venv"
    python3 -m venv "$venv" || fail "could not make $venv; on Debian and Ubuntu the package python3-venv is needed"
  fi
  if ! [ -x "$venv/bin/meson" ] || ! [ -x "$venv/bin/ninja" ]; then
    say "Installing Meson and Ninja in .venv (about 2 MB)"
    pip_install meson ninja || fail "pip could not install meson and ninja; OFFSITE_PIP_ARGS can name an index"
  fi
}

# Sets `libtorch` to its folder and, on a second line, its version; fails if there is none.
find_libtorch() {
  [ -n "${libtorch:-}" ] || libtorch=$(python3 "$offsite_root/tools/find_libtorch.py" 2> /dev/null)
}

get_libtorch() {
  find_libtorch && return
  say "LibTorch was not found. Fetching Python's torch package into .venv: the CPU build, about 200 MB (0.9 GB on disk)."
  pip_install torch==2.13.0+cpu && find_libtorch && return
  say "There is no CPU build in this index. Fetching the package's default build: on x86-64 that is the one with CUDA,"
  say "about 3 GB (7 GB on disk), elsewhere about 200 MB. Interrupt now if OFFSITE_PIP_ARGS should name an index with CPU builds."
  pip_install torch==2.13.0 && find_libtorch ||
    fail "pip could not install torch 2.13.0. Name an index with OFFSITE_PIP_ARGS, or a LibTorch with CMAKE_PREFIX_PATH."
}

# set_up [--tests]: everything above, in order. Meson is to call the Ninja of .venv, too: another version of it would not
# understand the build's log, and build everything anew.
set_up() {
  install_packages "${1:-}"
  make_venv
  get_libtorch
  export NINJA="$venv/bin/ninja"
}

# As many compilers at a time as there are processors, and as memory allows at 2 GB each; OFFSITE_JOBS overrides.
compile_jobs() {
  [ -n "${OFFSITE_JOBS:-}" ] && { echo "$OFFSITE_JOBS"; return; }
  local processors memory
  processors=$(nproc)
  memory=$(awk '/^MemAvailable:/ {print int($2 / 2000000)}' /proc/meminfo 2> /dev/null)
  [ "${memory:-1}" -ge 1 ] || memory=1
  echo $((processors < memory ? processors : memory))
}

# configure FOLDER OPTIONS...: sets up the build folder once; it is set up anew if the options or LibTorch are others.
configure() {
  local folder=$1 wanted
  shift
  wanted="$* $libtorch ${CXX:-}"
  [ -f "$folder/build.ninja" ] && [ "$(cat "$folder/configured" 2> /dev/null)" = "$wanted" ] && return
  rm -rf "$folder"
  "$venv/bin/meson" setup "$folder" "$offsite_root" "$@" < /dev/null >&2 || return 1
  printf '%s' "$wanted" > "$folder/configured"
}

build_with_ninja() { "$venv/bin/ninja" -C "$1" -j "$(compile_jobs)" "${@:2}" < /dev/null >&2; }

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  set -u
  set_up "$@"
  say "Everything is in place: LibTorch ${libtorch##*$'\n'} in ${libtorch%%$'\n'*}"
fi
