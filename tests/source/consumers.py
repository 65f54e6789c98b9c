"""A program outside the tree uses the installed headers by pkg-config and by CMake, and the project as a subproject."""
import json
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from support import BUILD, ROOT, Tally, compiler, run

CONSUMER = ROOT / "tests/consumer"
# The same folder of LibTorch as this build's, so that a user's -Dlibtorch counts here too.
LIBTORCH = next(option["value"] for option in json.loads((BUILD / "meson-info/intro-buildoptions.json").read_text())
                if option["name"] == "libtorch")
MESON = next((str(path) for path in [ROOT / ".venv/bin/meson"] if path.exists()), "meson")


def steps(*commands):
    """Runs commands until one fails; whether all went well, and the output of all."""
    output = ""
    for command in commands:
        status, text = run([str(word) for word in command])
        output += f"$ {' '.join(map(str, command))}\n{text}"
        if status != 0:
            return False, output
    return True, output


def install(folder):
    prefix, build = folder / "prefix", folder / "build"
    return steps([MESON, "setup", build, ROOT, f"--prefix={prefix}", "--libdir=lib", f"-Dlibtorch={LIBTORCH}",
                  "-Dtests=disabled", "-Dexamples=disabled"],
                 [MESON, "install", "-C", build])


def with_pkg_config(folder):
    environment = os.environ | {"PKG_CONFIG_PATH": f"{folder}/prefix/lib/pkgconfig"}
    status, words = run(["pkg-config", "--cflags", "--libs", "offsite"], env=environment)
    if status != 0:
        return False, words
    if any(flag in words.split() for flag in ("-Wall", "-Wconversion", "-Werror", "-lfmt")):
        return False, "flags that are ours alone reach users: " + words
    program = folder / "with_pkg_config"
    return steps([*compiler(), "-std=c++20", CONSUMER / "main.cpp", *words.split(), "-o", program], [program])


def with_cmake(folder):
    build = folder / "cmake"
    return steps(["cmake", "-S", CONSUMER, "-B", build, f"-DCMAKE_PREFIX_PATH={folder}/prefix"],
                 ["cmake", "--build", build], [build / "consumer"])


def as_subproject(folder):
    project, build = folder / "project", folder / "project-build"
    shutil.copytree(CONSUMER, project)
    (project / "subprojects").mkdir()
    ours = project / "subprojects/offsite"
    ours.mkdir()
    for name in ("meson.build", "meson_options.txt", "LICENSE", "include", "tools", ".venv"):
        if (ROOT / name).exists():
            (ours / name).symlink_to(ROOT / name)
    good, output = steps([MESON, "setup", build, project, f"-Doffsite:libtorch={LIBTORCH}"],
                         [MESON, "compile", "-C", build], [build / "consumer"])
    commands = (build / "compile_commands.json").read_text() if good else ""
    if "-Wconversion" in commands or "_test.cpp" in commands:
        return False, "our warning flags or tests are in a user's build:\n" + commands
    return good, output


tally = Tally()
with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    installed, output = install(folder)
    if tally.check(installed, "installing", output):
        ways = [with_pkg_config, as_subproject]
        if shutil.which("cmake"):
            ways.insert(1, with_cmake)
        else:
            tally.skip("consumer with CMake", "cmake is not installed")
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            for way, (good, output) in zip(ways, pool.map(lambda way: way(folder), ways)):
                tally.check(good, way.__name__, output)
tally.finish()
