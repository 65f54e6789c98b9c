"""Two files that include everything link into one program: no function has lost its `inline`."""
import re
import tempfile
from pathlib import Path

from support import INCLUDE, OPTIONAL_HEADERS, Tally, compiler, flags, headers, run

tally = Tally()
everything = headers()
# SentencePiece's header declares an absl::string_view of its own, so Debian's gRPC, which has Abseil's, is kept apart.
network = [h for h in everything if h.startswith(("offsite/transport/grpc", "offsite/transport/frame_"))]
for group in ([h for h in everything if h not in network], network):
    with tempfile.TemporaryDirectory() as folder:
        files = ("first.cpp", "second.cpp")
        for name in files:
            (Path(folder) / name).write_text("".join(f'#include "{header}"\n' for header in group))

        def compiled(name):
            status, output = run([*compiler(), *flags(), "-O0", "-c", f"{folder}/{name}", "-o", f"{folder}/{name}.o"])
            return status == 0, output

        before = tally.failed
        tally.check_all(compiled, files)
        if tally.failed == before:
            # Undefined symbols of LibTorch are not the question here; two definitions of one symbol are.
            status, output = run([*compiler(), "-r", "-nostdlib", *(f"{folder}/{name}.o" for name in files), "-o",
                                  f"{folder}/both.o"])
            tally.check(status == 0, "linking both", output)

# Each header is in the umbrella of its part; all.hpp is those that need no optional dependency and speak of no federation.
text = {h: (INCLUDE / h).read_text() for h in everything if h.count("/") == 1}
included = {name for content in text.values() for name in re.findall(r'#include "([^"]+)"', content)}
missing = [h for h in everything if h not in text and h not in OPTIONAL_HEADERS and h not in included]
tally.check(not missing, "each header is in the umbrella of its part", "none includes: " + ", ".join(missing))
apart = [h for h in text if h not in ("offsite/all.hpp", "offsite/federation.hpp", "offsite/rounds.hpp")]
missing = [h for h in apart if f'"{h}"' not in text["offsite/all.hpp"]]
tally.check(not missing, "all.hpp includes every umbrella", "it lacks: " + ", ".join(missing))
tally.check(not included & set(OPTIONAL_HEADERS), "no umbrella includes an optional header")
tally.finish()
