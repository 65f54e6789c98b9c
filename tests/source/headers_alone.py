"""Every public header compiles alone, without a warning."""
import re
import tempfile
from functools import lru_cache
from pathlib import Path

from support import INCLUDE, Tally, compiler, flags, headers, run

BASE = "ATen/core/Tensor.h"  # LibTorch's base: seconds to parse
command = [*compiler(), *flags(), "-Werror", "-fsyntax-only", "-x", "c++", "-"]


@lru_cache(maxsize=None)
def includes_base(header):
    """Whether our `header` includes LibTorch's base itself or through others of ours."""
    names = re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', (INCLUDE / header).read_text(), re.MULTILINE)
    return BASE in names or any(name.startswith("offsite/") and (INCLUDE / name).exists() and includes_base(name)
                                for name in names)


with tempfile.TemporaryDirectory() as folder:
    # Where a header includes the base anyway, it can come precompiled without hiding what the header lacks.
    base = Path(folder) / "base.hpp"
    base.write_text(f"#include <{BASE}>\n")
    precompiled, output = run([*compiler(), *flags(), "-w", "-x", "c++-header", str(base), "-o", f"{base}.gch"])

    def alone(header):
        first = ["-include", str(base)] if precompiled == 0 and includes_base(header) else []
        status, output = run([*command, *first], input=f'#include "{header}"\n')
        return status == 0, output

    tally = Tally()
    tally.check(precompiled == 0, f"{BASE} alone", output)
    tally.check_all(alone, headers())
tally.finish()
