"""Two files that include everything link into one program: no function has lost its `inline`."""
import re
import tempfile
from pathlib import Path

from support import INCLUDE, OPTIONAL_HEADERS, Tally, compiler, flags, headers, run

tally = Tally()
everything = headers()
with tempfile.TemporaryDirectory() as folder:
    included = "".join(f'#include "{header}"\n' for header in everything)
    files = ("first.cpp", "second.cpp")
    for name in files:
        (Path(folder) / name).write_text(included)

    def compiled(name):
        status, output = run([*compiler(), *flags(), "-O0", "-c", f"{folder}/{name}", "-o",
                              f"{folder}/{name}.o"])
        return status == 0, output

    tally.check_all(compiled, files)
    if not tally.failed:
        # Undefined symbols of LibTorch are not the question here; two definitions of one symbol are.
        status, output = run([*compiler(), "-r", "-nostdlib", *(f"{folder}/{name}.o" for name in files), "-o",
                              f"{folder}/both.o"])
        tally.check(status == 0, "linking both", output)

# offsite.hpp is everything that needs no optional dependency, but for federations, which need no LibTorch and have their own.
def lacks(umbrella, wanted):
    named = (INCLUDE / umbrella).read_text() if (INCLUDE / umbrella).exists() else ""
    missing = [h for h in wanted if h not in OPTIONAL_HEADERS and f'"{h}"' not in named]
    tally.check(not missing, f"{umbrella} includes every header", "it lacks: " + ", ".join(missing))
    return named


umbrellas = {"offsite/offsite.hpp", "offsite/federation.hpp"}
of_federations = [h for h in everything if re.match(r"offsite/(federation|transport)/", h)]
named = lacks("offsite/offsite.hpp", [h for h in everything if h not in umbrellas and h not in of_federations])
lacks("offsite/federation.hpp", of_federations)
tally.check(not any(f'"{h}"' in named for h in OPTIONAL_HEADERS), "offsite.hpp includes no optional header")
tally.finish()
