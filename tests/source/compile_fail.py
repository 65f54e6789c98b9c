"""Each file of tests/compile_fail compiles; with -DMISTAKE it does not, and the compiler prints what `// expect:` says.

Both compilers are asked where clang++ is there: users meet either.
"""
import re
import shutil

from support import ROOT, Tally, clang_flags, compiler, flags, run


def checked(case):
    path, command = case.path, case.command
    status, output = run([*command, str(path)])
    if status != 0:
        return False, "does not compile without the mistake:\n" + output
    expected = re.findall(r"^// expect: (.+)$", path.read_text(), re.MULTILINE)
    if not expected:
        return False, "has no line `// expect: regex`"
    status, output = run([*command, "-DMISTAKE", str(path)])
    if status == 0:
        return False, "compiles with the mistake"
    missing = [pattern for pattern in expected if not re.search(pattern, output)]
    return not missing, f"the compiler did not print {missing}, but\n{output[:6000]}"


class Case:
    def __init__(self, path, command):
        self.path, self.command = path, command

    def __str__(self):
        return f"{self.path.name} with {self.command[0]}"


tally = Tally()
compilers = [[*compiler(), *flags(), "-fsyntax-only"]]
if shutil.which("clang++"):
    compilers.append(["clang++", *clang_flags(), "-fsyntax-only"])
else:
    tally.skip("compile_fail with clang++", "clang++ is not installed")
paths = sorted((ROOT / "tests/compile_fail").glob("*.cpp"))
tally.check(paths, "tests/compile_fail holds files")
tally.check_all(checked, [Case(path, command) for path in paths for command in compilers])
tally.finish()
