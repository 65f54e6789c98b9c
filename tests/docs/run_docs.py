"""Runs every ```sh block of README.md and docs/*.md and compiles every ```cpp block; ```text is output and is not run.

The shell blocks of one file run one after the other in one folder, a copy of the tree as git has it, with `offsite` on
PATH; each must succeed. A block with the line `# not run: REASON` counts as skipped (what fetches something, or takes
long). A cpp block without main() may begin with includes, and has <offsite/all.hpp>
already; it is compiled, not run.
"""
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "source"))
from support import BUILD, ROOT, Tally, compiler, flags, run  # noqa: E402

PRELUDE = "#include <offsite/all.hpp>\n"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"^# not run: (.+)$", re.MULTILINE)


def blocks(page, language):
    """(name with the line number, text) of every block of `language`."""
    text = page.read_text()
    for found in BLOCK.finditer(text):
        if found.group(1) == language:
            line = text.count("\n", 0, found.start()) + 1
            yield f"{page.relative_to(ROOT)}:{line}", found.group(2)


def copy_tree(folder):
    """A copy of what git tracks, as it stands in the working tree."""
    copy = 'git ls-files -z | tar --null --ignore-failed-read -T - -c | tar -x -C "$0"'
    subprocess.run(["bash", "-euo", "pipefail", "-c", copy, folder], cwd=ROOT, check=True)


def whole(text):
    """A cpp block as a file: the includes first, the rest in a function unless it defines functions or types itself."""
    lines = text.splitlines(keepends=True)
    includes = [line for line in lines if line.startswith("#include")]
    rest = "".join(line for line in lines if not line.startswith("#include"))
    if re.search(r"^int main\(|^(struct|class|template|namespace|concept)\b", rest, re.MULTILINE):
        return PRELUDE + "".join(includes) + rest
    return PRELUDE + "".join(includes) + "using namespace offsite;\nvoid snippet() {\n" + rest + "}\n"


def compiles(block):
    plain = [word for word in flags() if not word.startswith("-W")]  # a snippet may leave a variable unused
    status, output = run([*compiler(), *plain, "-fsyntax-only", "-x", "c++", "-"], input=whole(block.text))
    return status == 0, output


class Named:
    def __init__(self, name, text):
        self.name, self.text = name, text

    def __str__(self):
        return self.name


def main():
    tally = Tally()
    pages = [page for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))] if page.exists()]
    tally.check(pages, "README.md or docs/ exist")
    tally.check_all(compiles, [Named(*block) for page in pages for block in blocks(page, "cpp")])

    # OFFSITE_PROGRAM: quickstart.sh runs this build's program instead of building its own.
    environment = os.environ | {"PATH": f"{BUILD}/examples:{os.environ['PATH']}",
                                "OFFSITE_PROGRAM": f"{BUILD}/examples/offsite"}
    for page in pages:
        commands = list(blocks(page, "sh"))
        if not commands:
            continue
        with tempfile.TemporaryDirectory() as folder:
            copy_tree(folder)
            for name, text in commands:
                reason = NOT_RUN.search(text)
                if reason:
                    tally.skip(name, reason.group(1))
                    continue
                status, output = run(["bash", "-euo", "pipefail", "-c", text], cwd=folder, env=environment,
                                     stdin=subprocess.DEVNULL)
                tally.check(status == 0, name, f"{text}\nstatus {status}\n{output}")
    tally.finish()


main()
