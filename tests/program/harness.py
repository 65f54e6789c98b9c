"""What the program's tests share: running `offsite`, a small model, small data, and a runner of test functions."""
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

ROOT = Path(os.environ.get("OFFSITE_SOURCE_ROOT", Path(__file__).resolve().parents[2]))
BUILD = Path(os.environ.get("OFFSITE_BUILD_ROOT", ROOT / "build-tests"))
PROGRAM = BUILD / "examples/offsite"
DATA = Path(os.environ.get("OFFSITE_DATA", ROOT / "../shared/data"))
# Sanitized programs are slow: what only makes a run larger is left to the optimised ones.
SANITIZED = any(option["name"] == "b_sanitize" and option["value"] not in ("none", [])
                for option in json.loads((BUILD / "meson-info/intro-buildoptions.json").read_text()))
TESTS = []
MADE, MADE_HERE = {}, tempfile.TemporaryDirectory(prefix="offsite-test-")


class Skip(Exception):
    pass


def test(function):
    TESTS.append(function)
    return function


def test_optimised(function):
    """A test that would take minutes under sanitizers, or shows them nothing that others do not."""
    return function if SANITIZED else test(function)


def need(name):
    """A file of the real data; without it the test counts as skipped, by name."""
    if not (DATA / name).exists():
        raise Skip(f"needs the data file {name}")
    return DATA / name


class Result:
    def __init__(self, done, fields):
        self.status, self.out, self.err, self.json = done.returncode, done.stdout, done.stderr, fields


def offsite(*words, status=0, preexec=None, env=None):
    """Runs the program; its --json fields come along. Fails unless it ends with `status`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.json"
        command = [str(PROGRAM), *map(str, words)]
        if words and not str(words[0]).startswith("-") and "--help" not in words:
            command += ["--json", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, preexec_fn=preexec,
                              env={**os.environ, **(env or {})}, timeout=900)
        fields = json.loads(path.read_text()) if path.exists() else None
    if done.returncode != status:
        raise AssertionError(f"{' '.join(command)}\nended with {done.returncode}, not {status}:\n{done.stdout}{done.stderr}")
    return Result(done, fields)


def refuses(*words, status, says):
    """The program ends with `status` and one sentence that matches `says`, and nothing else on standard error."""
    result = offsite(*words, status=status)
    lines = result.err.strip().split("\n")
    last = lines[-1]
    assert last.startswith("error: "), result.err
    assert re.search(says, last), f"{last!r} does not match {says!r}"
    assert "\n#" not in result.err and "frame #" not in result.err, result.err
    return result


def made_once(folder, key, make):
    """What `make(folder)` writes into an empty folder, made once for all that name this key, and copied."""
    if key not in MADE:
        MADE[key] = Path(MADE_HERE.name) / str(len(MADE))
        MADE[key].mkdir()
        make(MADE[key])
    shutil.copytree(MADE[key], folder, dirs_exist_ok=True)
    return Path(folder)


def random_model(folder, model_type, seed=1, **fields):
    """A model folder of random weights, without a tokenizer."""
    words = (model_type, str(seed), json.dumps(fields))
    return made_once(folder, words, lambda here: subprocess.run([str(BUILD / "tests/random_model"), str(here), *words], check=True,
                                                                capture_output=True))


def make_model(folder, layers=6, width=32, heads=4, vocabulary=467, context=128, seed=1, tokenizer=True):
    """A small GPT-2, with a tokenizer."""
    random_model(folder, "gpt2", seed, n_layer=layers, n_embd=width, n_head=heads, vocab_size=vocabulary, n_positions=context,
                 bos_token_id=vocabulary - 1, eos_token_id=vocabulary - 1)
    if tokenizer:
        for name in ("vocab.json", "merges.txt"):
            shutil.copy(ROOT / "tests/golden/tokenizer" / name, Path(folder) / name)
    return Path(folder)


def write_rows(path, rows):
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Path(path)


def questions(path, count=24, seed=0):
    """Questions whose answer follows from a word in them, so that there is something to learn."""
    words = ["red", "blue", "green", "grey"]
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        answer = draw.randrange(4)
        rows.append({"question": f"The sign says {words[answer]}. What does it say?", "choices": words, "answer": answer})
    return write_rows(path, rows)


def tree(folder):
    """Every file below a folder with its bytes: to see that nothing changed."""
    folder = Path(folder)
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def tensors(path):
    """name -> (dtype, shape, bytes) of a safetensors file."""
    raw = Path(path).read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:8 + size])
    header.pop("__metadata__", None)
    return {name: (t["dtype"], t["shape"], raw[8 + size + t["data_offsets"][0]:8 + size + t["data_offsets"][1]])
            for name, t in header.items()}


def write_tensors(path, content):
    header, offset, parts = {}, 0, []
    for name, (dtype, shape, data) in content.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
        parts.append(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    Path(path).write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))


def main():
    passed = failed = skipped = 0
    for function in TESTS:
        name = (function.__doc__ or function.__name__).split("\n")[0]
        with tempfile.TemporaryDirectory(prefix="offsite-test-") as folder:
            try:
                function(Path(folder))
                passed += 1
                print(f"[passed] {name}")
            except Skip as skip:
                skipped += 1
                print(f"[skipped] {name}: {skip}")
            except Exception:
                failed += 1
                print(f"[failed] {name}\n{traceback.format_exc()}")
        sys.stdout.flush()
    print(f"[summary] {passed} passed, {failed} failed, {skipped} skipped")
    sys.exit(1 if failed else 0)
