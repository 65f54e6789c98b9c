#!/bin/sh
# Measures offsite against its peers and writes docs/benchmarks.md, docs/benchmarks.svg and docs/benchmarks.json.
#
#   bench/run.sh [--quick | --tiny] [--rounds N] [--minutes N] [--only GROUP,...] [--data DIR] [--python PYTHON]
#                [--build DIR] [--out DIR] [--threads N]
#   bench/run.sh --render [--python PYTHON] [--out DIR]
#
# A full run takes at most 40 minutes once all is built and installed, --quick under five: fewer samples and no curve over
# batch sizes. What would end after --minutes, or comes after a cut (Ctrl-C), is left out, and the document names it; the
# most important comes first. --tiny only shows that everything runs. --only measures some groups anew (step, products,
# evaluation, budget, curve, shapes, kernels, recompute, cache, files) and keeps the others; --render measures nothing and
# makes the document of benchmarks.json anew.
#
# DIR of --data holds sciq/{train,test}.json and tokenizers/gpt2. PYTHON needs torch, transformers, accelerate and lm-eval;
# without --python they are installed into BUILD/peer. Nothing else should run on the machine meanwhile.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
build=$root/build-bench python= data=$root/../shared/data rest= measures=1
while [ $# -gt 0 ]; do
  case $1 in
    --build) build=$2; shift 2 ;;
    --python) python=$2; shift 2 ;;
    --data) data=$2; shift 2 ;;
    --rounds | --minutes | --only | --out | --threads) rest="$rest $1 $2"; shift 2 ;;
    --quick | --tiny) rest="$rest $1"; shift ;;
    --render) rest="$rest $1"; measures=; shift ;;
    *) sed -n '2,16s/^# \{0,1\}//p' "$0"; exit 2 ;;
  esac
done
if [ -z "$measures" ]; then
  # shellcheck disable=SC2086  # rest holds words of no spaces
  exec "${python:-python3}" "$root/bench/run.py" $rest
fi
[ -f "$data/sciq/train.json" ] || { echo "$data has no sciq/train.json: name the data with --data" >&2; exit 2; }

# PROGRAMS names a folder of programs that are built already.
if [ -z "${PROGRAMS:-}" ]; then
  PATH=$PATH:$root/.venv/bin  # where examples/setup.sh puts Meson and Ninja
  [ -d "$build" ] || meson setup "$build" "$root" -Dbench=enabled -Dtests=disabled -Dexamples=disabled \
    --buildtype=release
  ninja -C "$build" bench/step_profile bench/peak bench/evaluation bench/files
  ninja -C "$build" bench/kernels || echo "without Google Benchmark (libbenchmark-dev) the kernels are left out" >&2
  PROGRAMS=$build/bench
fi
if [ -z "$python" ]; then
  python=$build/peer/bin/python
  if [ ! -x "$python" ]; then
    python3 -m venv "$build/peer"
    "$python" -m pip install --quiet torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 lm-eval==0.4.13
  fi
fi
# shellcheck disable=SC2086  # rest holds words of no spaces
exec "$python" "$root/bench/run.py" --programs "$PROGRAMS" --data "$data" $rest
