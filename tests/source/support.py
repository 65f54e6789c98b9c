"""What the checks of the source have in common: folders, the compiler's command, counting."""
import json
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(os.environ.get("OFFSITE_SOURCE_ROOT", Path(__file__).resolve().parents[2]))
BUILD = Path(os.environ.get("OFFSITE_BUILD_ROOT", ROOT / "build-tests"))
INCLUDE = ROOT / "include"

# Headers that ask for more than offsite.hpp does: not part of it.
OPTIONAL_HEADERS = {"offsite/blocks/torch_module.hpp", "offsite/federation/sqlite_journal.hpp",
                    "offsite/transport/frame_hub.hpp", "offsite/transport/frame_stream.hpp", "offsite/transport/grpc.hpp",
                    "offsite/transport/grpc_client.hpp", "offsite/transport/grpc_options.hpp", "offsite/transport/grpc_owner.hpp"}


def headers():
    """Every header as users name it: offsite/part/name.hpp."""
    return sorted(path.relative_to(INCLUDE).as_posix() for path in INCLUDE.rglob("*.hpp"))


def flags(target="test_core"):
    """What Meson compiles `target` with, without compiler, input and output: includes, definitions, warnings."""
    for entry in json.loads((BUILD / "compile_commands.json").read_text()):
        if f"/{target}.p/" in entry["output"]:
            words = shlex.split(entry["command"])
            break
    else:
        raise SystemExit(f"{BUILD}/compile_commands.json does not name {target}")
    first = next(i for i, word in enumerate(words) if word.startswith("-"))
    kept, skip = [], False
    for word in words[first:]:
        if skip:
            skip = False
        elif word in ("-o", "-MF", "-MQ", "-MT", "-c"):
            skip = True
        elif word.startswith("-I") and not os.path.isabs(word[2:]):
            kept.append("-I" + os.path.normpath(os.path.join(entry["directory"], word[2:])))
        elif word not in ("-MD", "-MMD") and not word.startswith("-fdiagnostics-color"):
            kept.append(word)
    return kept


def clang_flags():
    """The same for clang++: without g++'s warnings, and without OpenMP, whose header comes with another package."""
    return [word for word in flags() if not word.startswith("-W") and word != "-fopenmp"]


def compiler():
    return shlex.split(os.environ.get("CXX", "g++"))


def run(command, **options):
    """Exit status and everything the command printed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    return done.returncode, done.stdout


class Tally:
    """Counts outcomes, prints failures as they come, and the line that run.sh adds up."""

    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def check(self, good, name, output=""):
        if good:
            self.passed += 1
        else:
            self.failed += 1
            print(f"[failed] {name}\n{output}", flush=True)
        return good

    def skip(self, name, reason):
        self.skipped += 1
        print(f"[skipped] {name}: {reason}", flush=True)

    def check_all(self, function, items):
        """function(item) -> (good, output), as many at a time as there are processors."""
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            for item, (good, output) in zip(items, pool.map(function, items)):
                self.check(good, str(item), output)

    def finish(self):
        print(f"[summary] {self.passed} passed, {self.failed} failed, {self.skipped} skipped")
        sys.exit(1 if self.failed else 0)
