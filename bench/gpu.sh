#!/bin/sh
# Measures offsite against its peers on one GPU and writes docs/benchmarks_gpu.md: GPT2-XL's shape, 2 bottom blocks + emulator
# of 16 + 2 top blocks, against the Trainer, FlashAttention through SDPA, and torch.compile.
#
#   bench/gpu.sh [--batch N] [--rounds N] [--data DIR] [--python PYTHON] [--build DIR] [--out DIR] [--device cpu --tiny]
#
# PYTHON needs a torch that knows CUDA, transformers and accelerate; without --python they are installed into BUILD/peer. The
# library is built against that torch. --device cpu --tiny shows on any machine that the script runs.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
build=$root/build-gpu python= data=$root/../shared/data rest=
while [ $# -gt 0 ]; do
  case $1 in
    --build) build=$2; shift 2 ;;
    --python) python=$2; shift 2 ;;
    --data) data=$2; shift 2 ;;
    --batch | --rounds | --out | --device) rest="$rest $1 $2"; shift 2 ;;
    --tiny) rest="$rest $1"; shift ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2 ;;
  esac
done
[ -f "$data/sciq/train.json" ] || { echo "$data has no sciq/train.json: name the data with --data" >&2; exit 2; }

PATH=$PATH:$root/.venv/bin  # where examples/setup.sh puts Meson and Ninja
if [ -z "$python" ]; then
  python=$build/peer/bin/python
  if [ ! -x "$python" ]; then
    python3 -m venv "$build/peer"
    "$python" -m pip install --quiet torch==2.13.0 transformers==5.23.0 accelerate==1.15.0
  fi
fi
# PROGRAMS names a folder of programs that are built already.
if [ -z "${PROGRAMS:-}" ]; then
  libtorch=$("$python" -c "import os, torch; print(os.path.dirname(torch.__file__))")
  [ -f "$build/programs/build.ninja" ] || meson setup "$build/programs" "$root" -Dbench=enabled -Dtests=disabled \
    -Dexamples=disabled --buildtype=release -Dlibtorch="$libtorch"
  ninja -C "$build/programs" bench/step_profile
  PROGRAMS=$build/programs/bench
fi
# shellcheck disable=SC2086  # rest holds words of no spaces
exec "$python" "$root/bench/gpu.py" --programs "$PROGRAMS" --data "$data" $rest
