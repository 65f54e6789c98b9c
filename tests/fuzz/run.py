"""Runs every fuzz target of this folder for a share of OFFSITE_FUZZ_SECONDS (60), from the corpus beside it.

Needs clang with libFuzzer; without it each target counts as skipped, by name. What is found is written beside the build.
"""
import os
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "source"))
from support import ROOT, Tally, run  # noqa: E402

FOLDER = ROOT / "tests/fuzz"
INCLUDES = ["-I", ROOT / "include", "-I", ROOT / "tests", "-isystem", "/usr/include/eigen3", "-DFMT_HEADER_ONLY"]

tally = Tally()
targets = sorted(FOLDER.glob("*_fuzz.cpp"))
seconds = max(5, int(os.environ.get("OFFSITE_FUZZ_SECONDS", "60")) // max(1, len(targets)))
clang = shutil.which("clang++")
with tempfile.TemporaryDirectory() as folder:
    probe = Path(folder) / "probe.cpp"
    probe.write_text('extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }')
    usable = clang and run([clang, "-fsanitize=fuzzer", probe, "-o", Path(folder) / "probe"])[0] == 0
    for target in targets:
        name = target.stem.removesuffix("_fuzz")
        if not usable:
            tally.skip(target.name, "no clang++ with libFuzzer here (clang, libclang-rt-dev)")
            continue
        program = Path(folder) / name
        # RapidJSON's stack adds to a null pointer that it does not follow.
        status, output = run([clang, "-std=c++20", "-O1", "-g", "-fsanitize=fuzzer,address,undefined",
                              "-fno-sanitize-recover=undefined", "-fno-sanitize=pointer-overflow", *INCLUDES, target, "-o", program, "-lcrypto"])
        if not tally.check(status == 0, f"compiling {target.name}", output):
            continue
        found = Path(folder) / f"{name}-found"  # the corpus of the repository is read only
        found.mkdir()
        status, output = run([program, f"-max_total_time={seconds}", "-max_len=65536", "-rss_limit_mb=2048", "-timeout=10",
                              "-print_final_stats=1", f"-artifact_prefix={tempfile.gettempdir()}/{name}-", found,
                              FOLDER / "corpus" / name], env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"})
        executed = next((line for line in output.splitlines() if "number_of_executed_units" in line), "")
        print(name, executed.strip(), flush=True)
        tally.check(status == 0, target.name, output[-4000:])
tally.finish()
