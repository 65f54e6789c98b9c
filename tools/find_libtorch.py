#!/usr/bin/env python3
"""Prints the folder of LibTorch (it holds include/ and lib/) and its version, or says where it was looked for.

The first that is there wins: the folder given, CMAKE_PREFIX_PATH, the torch package of `python3` on PATH, .venv in the
project's root. A folder may be an unpacked libtorch archive, Python's torch package, or torch.utils.cmake_prefix_path.
"""
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

OLDEST = (2, 11)
FIND_PACKAGE = "import importlib.util as u; s = u.find_spec('torch'); print(s.origin if s and s.origin else '')"


def version_of(folder):
    """(major, minor, patch) of the LibTorch in `folder`, or None where there is none."""
    if not (folder / "lib" / "libtorch.so").exists() or not (folder / "include/ATen/core/Tensor.h").exists():
        return None
    for name in ("torch/headeronly/version.h", "torch/csrc/api/include/torch/version.h"):
        header = folder / "include" / name
        if header.exists():
            found = dict(re.findall(r"#define TORCH_VERSION_(MAJOR|MINOR|PATCH) (\d+)", header.read_text()))
            if len(found) == 3:
                return tuple(int(found[part]) for part in ("MAJOR", "MINOR", "PATCH"))
    return None


def package_of(python):
    """The torch package's folder as `python` sees it, or None; asks without importing it."""
    if not python or not os.access(python, os.X_OK):
        return None
    answer = subprocess.run([python, "-c", FIND_PACKAGE], capture_output=True, text=True, cwd="/")
    origin = answer.stdout.strip()
    return Path(origin).parent if answer.returncode == 0 and origin else None


def places(given, root):
    """(what it is called, folder) of every place, in order; lazily, since asking Python takes time."""
    if given:
        yield "the option libtorch", Path(given)
        return
    for prefix in re.split(r"[:;]", os.environ.get("CMAKE_PREFIX_PATH", "")):
        if prefix:
            yield "CMAKE_PREFIX_PATH", Path(prefix)
    yield "python3 on PATH", package_of(shutil.which("python3"))
    yield ".venv", package_of(str(root / ".venv/bin/python"))


def main():
    given = sys.argv[1] if len(sys.argv) > 1 else ""
    root = Path(__file__).resolve().parent.parent
    looked = []
    for name, place in places(given, root):
        if place is None:
            looked.append(f"{name}: has no torch package")
            continue
        for folder in (place, place.parent.parent):  # torch.utils.cmake_prefix_path is <torch>/share/cmake
            version = version_of(folder)
            if version and version[:2] >= OLDEST:
                print(folder.resolve())
                print(".".join(map(str, version)))
                return 0
            if version:
                looked.append(f"{name}: {folder} is {version[0]}.{version[1]}, {OLDEST[0]}.{OLDEST[1]} is needed")
                break
        else:
            looked.append(f"{name}: no LibTorch in {place}")
    print("LibTorch was not found (" + "; ".join(looked) + "). Name its folder with -Dlibtorch=DIR, or run "
          "examples/setup.sh, which fetches it.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
