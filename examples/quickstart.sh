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

# Threads that wait sleep: on a machine that others use, spinning ones would wait for each other.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
world=$PWD/examples/data/world
run=${OFFSITE_RUN:-$PWD/build-release/quickstart}  # where the offer, the update and the new model go

# How the small model is cut and tuned.
bottom=1 emulator=4 top=1
training=(--learning-rate 3e-4 --num-epochs 3 --batch-size 16 --dtype float32)
full_learning_rate=3e-4

# The run itself: owner and client as processes of their own, then all five rows side by side.
run_quickstart() {
  rm -rf "$run" && mkdir -p "$run" || fail "cannot write to $run"
  cat >&2 <<EOF

A small GPT-2 was pretrained on texts about the people of a made-up world. Its owner keeps it; somebody else has
questions about these people. Together they make it better at such questions, and neither hands over what is theirs.

1. The owner cuts the model: the offer holds adapter blocks to train and an emulator that stands in for the middle.
EOF
  "$offsite" split --model "$world" --bottom $bottom --emulator $emulator --top $top --out "$run/offer" \
    --task choices --data "$world/test.jsonl" || exit 1
  printf '\n2. The client trains the adapters on its own questions and returns only what changed.\n' >&2
  "$offsite" train --offer "$run/offer" --task choices --data "$world/train.jsonl" "${training[@]}" --out "$run/update" || exit 1
  printf '\n3. The owner plugs the trained adapters around the original middle.\n' >&2
  "$offsite" plug-in --model "$world" --update "$run/update" --out "$run/model" || exit 1
  printf '\n4. All of it side by side, on questions about facts that the client never saw (chance is 25 %%).\n' >&2
  "$offsite" compare --model "$world" --bottom $bottom --emulator $emulator --top $top --task choices \
    --data "$world/train.jsonl" --eval-data "$world/test.jsonl" "${training[@]}" \
    --full-learning-rate $full_learning_rate || exit 1
  cat <<EOF

The offer, the update and the new model are in $run.
The same for your own model and data, side by side, and step by step:

  $offsite compare --model MODEL --bottom 2 --emulator 4 --top 2 --task sciq --data train.json --eval-data test.json
  $offsite split --model MODEL --bottom 2 --emulator 4 --top 2 --out OFFER && $offsite train --offer OFFER --task sciq --data train.json --out UPDATE && $offsite plug-in --model MODEL --update UPDATE --out NEW_MODEL

MODEL is a folder as Hugging Face writes it; offsite --help and docs/ say more.
EOF
}

run_quickstart
