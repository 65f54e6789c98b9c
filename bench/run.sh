#!/bin/sh
# Measures the client's training step against its peers and writes docs/benchmarks.md and docs/benchmarks.svg.
#
#   bench/run.sh [--quick] [--rounds N] [--data DIR] [--python PYTHON] [--build DIR] [--out DIR] [--threads N] [--tiny]
#
# --quick takes under five minutes once all is built and installed: fewer samples and no curve over batch sizes. --tiny
# only shows that everything runs. DIR holds sciq/train.json and tokenizers/gpt2. PYTHON needs torch, transformers and
# accelerate; without --python they are installed into BUILD/peer. Nothing else should run on the machine meanwhile.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
build=$root/build-bench python= data=$root/../shared/data rest=
while [ $# -gt 0 ]; do
  case $1 in
    --build) build=$2; shift 2 ;;
    --python) python=$2; shift 2 ;;
    --data) data=$2; shift 2 ;;
    --rounds | --out | --threads) rest="$rest $1 $2"; shift 2 ;;
    --quick | --tiny) rest="$rest $1"; shift ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2 ;;
  esac
done
[ -f "$data/sciq/train.json" ] || { echo "$data has no sciq/train.json: name the data with --data" >&2; exit 2; }

if [ -z "${STEP_PROFILE:-}" ]; then
  [ -d "$build" ] || meson setup "$build" "$root" -Dbench=enabled -Dtests=disabled -Dexamples=disabled \
    --buildtype=release
  ninja -C "$build" bench/step_profile
  STEP_PROFILE=$build/bench/step_profile
fi
if [ -z "$python" ]; then
  python=$build/peer/bin/python
  if [ ! -x "$python" ]; then
    python3 -m venv "$build/peer"
    "$python" -m pip install --quiet torch==2.13.0 transformers==5.23.0 accelerate==1.15.0
  fi
fi
# shellcheck disable=SC2086  # rest holds words of no spaces
exec "$python" "$root/bench/run.py" --step-profile "$STEP_PROFILE" --data "$data" $rest
