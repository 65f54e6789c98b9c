"""clang accepts what g++ does, without a warning: every header together, the examples, and the program."""
import shutil

from support import OPTIONAL_HEADERS, ROOT, Tally, clang_flags, headers, run

tally = Tally()
if not shutil.which("clang++"):
    tally.skip("clang++ -fsyntax-only", "clang++ is not installed")
    tally.finish()

WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wno-sign-conversion", "-Wshadow", "-Werror"]
command = ["clang++", *clang_flags(), *WARNINGS, f"-I{ROOT}/examples", "-fsyntax-only", "-x", "c++"]


def accepted(source):
    if source == "all headers":
        text = "".join(f'#include "{header}"\n' for header in headers() if header not in OPTIONAL_HEADERS)
        status, output = run([*command, "-"], input=text)
    else:
        status, output = run([*command, str(ROOT / source)])
    return status == 0, output


sources = sorted(p.relative_to(ROOT).as_posix() for p in [*(ROOT / "examples").glob("*.cpp"),
                                                         *(ROOT / "examples/offsite").glob("*.cpp")])
tally.check_all(accepted, ["all headers", "tests/support/main.cpp", *sources])
tally.finish()
