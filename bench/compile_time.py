#!/usr/bin/env python3
"""How long a file that includes <offsite/offsite.hpp> compiles, beside one with only the LibTorch headers it needs.

Run it in the project's folder; --compiler, --libtorch, --repeat say otherwise. It prints user CPU seconds, the least of
several runs, at -O0 and -O2, and fails above --limit times (1.5). --headers also tells what single headers add.
"""
import argparse
import glob
import os
import re
import resource
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INCLUDE = ROOT / "include"
LIBTORCH = re.compile(r'^\s*#\s*include\s*<((?:ATen|c10|torch)/[^>]+)>', re.MULTILINE)
OURS = re.compile(r'^\s*#\s*include\s*"(offsite/[^"]+)"', re.MULTILINE)


def reached(header, seen):
    """Our headers that `header` brings, itself included."""
    if header not in seen:
        seen.add(header)
        for other in OURS.findall((INCLUDE / header).read_text()):
            reached(other, seen)
    return seen


def libtorch_includes(headers):
    return sorted({name for header in headers for name in LIBTORCH.findall((INCLUDE / header).read_text())})


def default_libtorch():
    found = sorted(glob.glob(str(ROOT / ".venv/lib/python3*/site-packages/torch")))
    return found[-1] if found else ""


def seconds(command, text, repeat):
    """User CPU seconds of compiling `text` to an object, the least of `repeat` runs."""
    least = float("inf")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "one.cpp"
        source.write_text(text)
        for _ in range(repeat):
            before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
            subprocess.run([*command, "-c", str(source), "-o", f"{folder}/one.o"], check=True)
            least = min(least, resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before)
    return least


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compiler", default=os.environ.get("CXX", "g++"))
    parser.add_argument("--libtorch", default=default_libtorch(), help="folder with include/ATen")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--limit", type=float, default=1.5)
    parser.add_argument("--levels", default="-O0,-O2")
    parser.add_argument("--headers", action="store_true", help="also what each of our headers adds, at -O0")
    options = parser.parse_args()
    if not options.libtorch:
        sys.exit("LibTorch was not found: name its folder with --libtorch")

    torch = options.libtorch
    base = [*shlex.split(options.compiler), "-std=c++20", "-fopenmp", "-DFMT_HEADER_ONLY", f"-I{INCLUDE}",
            "-isystem", f"{torch}/include", "-isystem", f"{torch}/include/torch/csrc/api/include",
            "-isystem", "/usr/include/eigen3"]
    names = libtorch_includes(reached("offsite/offsite.hpp", set()))
    alone = "".join(f"#include <{name}>\n" for name in names)
    ours = "#include <offsite/offsite.hpp>\n"
    print(f"{len(names)} headers of LibTorch, user seconds, least of {options.repeat}:")
    worst = 0.0
    for level in options.levels.split(","):
        theirs, whole = (seconds([*base, level], text, options.repeat) for text in (alone, ours))
        worst = max(worst, whole / theirs)
        print(f"  {level}: LibTorch {theirs:.2f}, offsite.hpp {whole:.2f}, {whole / theirs:.2f} times", flush=True)

    if options.headers:
        command = [*base, "-O0"]
        theirs = seconds(command, alone, options.repeat)
        for name in ("Eigen/Core", "fmt/format.h", "rapidjson/reader.h", "regex", "iostream", "filesystem", "functional",
                     "offsite/data/load_tokenizer.hpp", "offsite/data/any_task.hpp", "offsite/io/model_folder.hpp",
                     "offsite/ops/attention.hpp", "offsite/models/gpt2.hpp", "offsite/trainer/offsite_tuning.hpp",
                     "offsite/trainer/offer_folder.hpp", "offsite/eval/comparison.hpp", "offsite/report/progress.hpp"):
            more = seconds(command, f"{alone}#include <{name}>\n", options.repeat)
            print(f"  LibTorch and {name}: +{more - theirs:.2f}", flush=True)
    if worst > options.limit:
        sys.exit(f"offsite.hpp takes {worst:.2f} times what LibTorch's headers take, but {options.limit} is the limit")


main()
