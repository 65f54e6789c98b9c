"""summary.py FAILED LOG...: prints what failed and was skipped, then the sum over all test programs, as the last line.

FAILED counts what failed outside the logs. A LOG is Meson's testlog.json. A program's own last line `[summary] N passed,
N failed, N skipped` counts; one that died before it counts as one failure, beside what it did not say.
"""
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SUMMARY = re.compile(r"^\[summary\] (\d+) passed, (\d+) failed, (\d+) skipped$", re.MULTILINE)
GOOD, SKIPPED = ("OK", "EXPECTEDFAIL"), "SKIP"


def counts(test):
    """(passed, failed, skipped) of one program."""
    found = SUMMARY.findall(test.get("stdout", ""))
    passed, failed, skipped = map(int, found[-1]) if found else (0, 0, 0)
    if test["result"] == SKIPPED:
        return passed, failed, skipped or 1
    if test["result"] not in GOOD:
        return passed, max(failed, 1), skipped
    return (passed, failed, skipped) if found else (1, 0, 0)


def unlisted():
    """Test files that no list of tests/meson.build names, so that nothing builds or runs them."""
    text = (ROOT / "tests/meson.build").read_text()
    lists = dict(re.findall(r"^  '(\w+)': \[(.*?)\]", text, re.MULTILINE | re.DOTALL))
    for part, more in re.findall(r"parts\['(\w+)'\] \+ \[(.*?)\]", text):  # what an optional dependency adds
        lists[part] += more
    lists["program"] = re.search(r"program_tests = \[(.*?)\]", text, re.DOTALL).group(1)
    lists["program"] += "".join(re.findall(r"program_tests \+= ('\w+')", text))
    for path in sorted([*ROOT.glob("tests/*/*_test.cpp"), *ROOT.glob("tests/*/*_test.py")]):
        if f"'{path.stem.removesuffix('_test')}'" not in lists.get(path.parent.name, ""):
            yield path.relative_to(ROOT)


def main():
    total = [0, int(sys.argv[1]), 0]
    for log in map(Path, sys.argv[2:]):
        if not log.exists():
            print(f"[failed] {log} was not written")
            total[1] += 1
            continue
        for line in log.read_text().splitlines():
            test = json.loads(line)
            mine = counts(test)
            total = [a + b for a, b in zip(total, mine)]
            name = f"{log.parent.parent.name}: {test['name']}"
            if mine[1]:
                print(f"\n===== {name}: {test['result']}, status {test.get('returncode')}, {test.get('duration', 0):.0f} s")
                print(test.get("stdout", "")[-20000:] + test.get("stderr", "")[-20000:])
            else:
                for skip in re.findall(r"^\[skipped\].*$", test.get("stdout", ""), re.MULTILINE):
                    print(f"{name}: {skip}")
    for path in unlisted():
        print(f"[failed] {path} is in no list of tests/meson.build")
        total[1] += 1
    print("{} passed, {} failed, {} skipped".format(*total))
    return 1 if total[1] or not total[0] else 0


if __name__ == "__main__":
    sys.exit(main())
