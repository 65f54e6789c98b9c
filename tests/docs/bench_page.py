"""docs/benchmarks.md is what bench/run.py makes of docs/benchmarks.json, and it makes a page, or says one sentence, of others."""
import argparse
import contextlib
import copy
import io
import json
import random
import re
import sys
import tempfile
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "source"))
from support import ROOT, Tally  # noqa: E402

sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "bench"))
import measurements  # noqa: E402
import render  # noqa: E402
import run as bench  # noqa: E402

DOCS = ROOT / "docs"
MEASURED = json.loads((DOCS / "benchmarks.json").read_text())
tally = Tally()


def run(folder, *words):
    """(status, what run.py said on stderr)"""
    said, sys.argv = io.StringIO(), ["run.py", "--out", str(folder), *map(str, words)]
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            bench.main()
        return 0, ""
    except SystemExit as end:  # what the interpreter would print
        return (end.code, said.getvalue()) if isinstance(end.code, int) else (1, str(end.code))


def page(results):
    with tempfile.TemporaryDirectory() as folder:
        return render.write(results, Path(folder))[0].read_text()


def changed(change):
    """The page of what was measured after `change`."""
    results = copy.deepcopy(MEASURED)
    change(results)
    return page(results)


def records(results, group, name="", bench_name=""):
    return [record for entry in results["runs"] if entry["group"] == group and entry["name"].startswith(name)
            for record in entry.get("records", []) if record.get("bench", "").startswith(bench_name)]


def check(case):
    """Runs a case with a folder of its own; its name is its first line."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            case(Path(folder))
            tally.check(True, case.__doc__)
        except Exception:
            tally.check(False, case.__doc__, traceback.format_exc())


@check
def published(folder):
    """the published page is what the published measurements give"""
    (folder / "benchmarks.json").write_bytes((DOCS / "benchmarks.json").read_bytes())
    assert run(folder, "--render") == (0, "")
    for name in ("benchmarks.md", "benchmarks.svg"):
        assert (folder / name).read_text() == (DOCS / name).read_text(), f"{name}: make it anew by bench/run.sh --render"


@check
def without_groups(folder):
    """a run without one of the groups, or with one alone, or with nothing"""
    groups = {entry["group"] for entry in MEASURED["runs"]}
    for kept in [*({group} for group in groups), *(groups - {group} for group in groups), set()]:
        text = changed(lambda all_: all_.update(runs=[entry for entry in all_["runs"] if entry["group"] in kept], planned=[]))
        assert ("## Evaluation" in text) == ("evaluation" in kept) and ("## Kernels" in text) == ("kernels" in kept)


@check
def cut_off(folder):
    """a run that was cut off names what it did not reach"""
    def cut(all_, number):
        all_["planned"] = [[entry["group"], entry["name"], entry["allocator"], entry["round"]] for entry in all_["runs"]]
        del all_["runs"][number:]
    for number, entry in enumerate(MEASURED["runs"]):
        named = f"- {entry['group']}: {entry['name']} {entry['allocator']}".rstrip() + ", round"
        assert any(line.startswith(named) and line.endswith("the run was cut off before it")
                   for line in changed(lambda all_: cut(all_, number)).splitlines()), named


@check
def failed(folder):
    """a run that failed is named, and why"""
    def fail(all_):
        all_["runs"][0].pop("records")
        all_["runs"][0]["error"] = "status 1: a | b"
    entry = MEASURED["runs"][0]
    assert f"- {entry['group']}: {entry['name']} {entry['allocator']}, round {entry['round'] + 1}: status 1: a / b\n" in changed(fail)


@check
def no_time(folder):
    """what took no time is not divided by"""
    for group, name in (("step", "offsite"), ("evaluation", "lm-eval"), ("curve", "strongest")):
        text = changed(lambda all_: [record.update(wall_s=0) for record in records(all_, group, name)])
        assert "it took no time that the clock shows" in text
    changed(lambda all_: [line.update(ms=0) for record in records(all_, "budget") for line in record["lines"]])
    assert "## Budget" not in changed(lambda all_: [record.update(cpu_ms=0) for record in records(all_, "budget")])
    for side in ("/offsite", "/ATen"):
        changed(lambda all_: [kernel.update(real_time=0) for record in records(all_, "kernels") for kernel in record["kernels"]
                              if side in kernel["name"]])
    assert "## Rows kept" not in changed(lambda all_: [record.update(later_epoch_s=0) for record in records(all_, "cache")])


@check
def nothing_below_zero(folder):
    """a part that is its products, but for rounding, is 0.0 and not -0.0"""
    def round_down(all_):
        for record in records(all_, "budget"):
            head = sum(line["ms"] for line in record["lines"] if line["part"] == "loss and head" and line["gflop"])
            next(line for line in record["lines"] if line["part"] == "loss and head" and not line["what"])["ms"] = head - 1e-9
    text = changed(round_down)
    assert "| loss without its products | 0.0 | 0.0 % |" in text and not re.search(r"-0\.0\b", text)


@check
def later_keys(folder):
    """what files of earlier versions do not have is said where it is there"""
    def with_them(all_):
        for record in records(all_, "budget"):
            record["operators"] = 1234.2
        for record in records(all_, "products", bench_name="peak"):
            record["kernel bfloat16"] = record["bfloat16"] / 2

    def without_them(all_):
        for record in records(all_, "budget") + records(all_, "products", bench_name="peak"):
            for key in ("operators", "kernel bfloat16", "kernel float32"):
                record.pop(key, None)
    text = changed(with_them)
    assert "1,234 calls of its operators" in text and "LibTorch's, of which a step calls 1,234 |" in text
    assert "tile of offsite's own alone, with operands in the second cache, reaches 50 % of it." in text
    text = changed(without_them)
    assert "calls of its operators" not in text and "of which a step" not in text and "tile of offsite's own alone" not in text


@check
def mean_speed(folder):
    """offsite is compared with the mean of the products around it, too"""
    def shares(factor):
        def set_means(all_):
            for record in records(all_, "products"):
                record.update({f"{kind} mean": factor * record[kind] for kind in ("bfloat16", "float32") if kind in record})
        text = changed(set_means)
        assert f"run at {100 * factor:.0f} % of that best one in bfloat16" in text
        return [float(number) for number in re.search(r"offsite's share of it is (.*?) in bfloat16", text)[1].split(" / ")]
    assert all(abs(a / b - 2) < 0.05 for a, b in zip(shares(0.25), shares(0.5), strict=True))


@check
def in_parts(folder):
    """a round that was measured in parts has the rate of all of them, and one that failed is named"""
    def halve(all_):
        for entry in [entry for entry in all_["runs"] if (entry["group"], entry["name"], entry["allocator"]) == ("step", "offsite", "tuned")]:
            other = copy.deepcopy(entry)
            for record, share in ((entry["records"][0], 0.25), (other["records"][0], 0.75)):
                for key in measurements.SUMS:
                    record[key] *= 0.5 if key == "wall_s" else share
                record["real_tok_per_s"] = record["real_tokens"] / record["wall_s"]
            all_["runs"].append(other)
    whole, halves = copy.deepcopy(MEASURED), copy.deepcopy(MEASURED)
    halve(halves)
    parts = [measurements.Results(results).ratios(("offsite", "tuned"), ("strongest", "tuned")) for results in (whole, halves)]
    assert all(abs(a / b - 1) < 1e-3 for a, b in zip(*parts, strict=True)), parts
    assert "parts, each after another peer's run" in page(halves)
    halves["runs"][-1] = {**halves["runs"][-1], "error": "killed"}
    halves["runs"][-1].pop("records")
    assert re.search(r"- step: offsite tuned, round \d: killed\n", page(halves))


@check
def plans(folder):
    """each plan fits its minutes by what is estimated, and parts of offsite lie between the peers"""
    for scale in ("full", "quick", "tiny"):
        options = argparse.Namespace(quick=scale == "quick", tiny=scale == "tiny", rounds=0, threads=1, data=folder, programs=folder, only="")
        tasks = bench.Bench(options).tasks()
        assert sum(task.seconds for task in tasks) < 60 * bench.SCALES[scale]["minutes"], scale
        for task, after in zip(tasks, tasks[1:]):
            if task.group == "step" and task.name in ("fate", "strongest"):
                assert (after.group, after.name, after.round) == ("step", "offsite", task.round), (scale, task.name)


def hostile():
    """What is no file of measurements."""
    entry = {"group": "step", "name": "offsite", "allocator": "tuned", "round": 0}
    yield from (b"", b"[", b"[" * 100000, b"\xff\xfe", b"[]", b"null", b"{}", b'{"runs": 3}', b'{"runs": [1]}', b'{"runs": [{}]}')
    for runs in ([{**entry, "group": []}], [{**entry, "round": "x"}], [{**entry, "records": 1}], [{**entry, "records": [[]]}],
                 [{**entry, "records": [{"bench": "offsite", "wall_s": "long"}]}]):
        yield json.dumps({**MEASURED, "runs": runs}).encode()
    still = copy.deepcopy(MEASURED)
    for record in records(still, "budget"):
        record["memory_gb_s"] = 0
    yield json.dumps(still).encode()
    yield json.dumps({**MEASURED, "versions": []}).encode()
    yield json.dumps({**MEASURED, "planned": [[[]]]}).encode()
    yield json.dumps({"runs": MEASURED["runs"]}).encode()


def is_sentence(said):
    return said.startswith("run.py: ") and "\n" not in said and "Traceback" not in said


@check
def other_files(folder):
    """other files: one sentence, and no page is written"""
    for content in hostile():
        (folder / "benchmarks.json").write_bytes(content)
        status, said = run(folder, "--render")
        assert status == 1 and is_sentence(said) and str(folder) in said, (content[:60], status, said)
        assert not (folder / "benchmarks.md").exists()


@check
def damaged_files(folder):
    """a file of which something was overwritten: a page, or one sentence"""
    dice = random.Random(1)
    for _ in range(100):
        results = copy.deepcopy(MEASURED)
        at = results
        while True:
            key = dice.choice(list(at) if isinstance(at, dict) else range(len(at)))
            if not at[key] or not isinstance(at[key], (dict, list)) or dice.random() < 0.05:
                break
            at = at[key]
        at[key] = dice.choice([None, "x|y", -1, 0, 1e308, 10**400, [], {}, [[]], {"x": "\ud800"}, "\ud800"])
        (folder / "benchmarks.json").write_text(json.dumps(results))
        status, said = run(folder, "--render")
        assert status == 0 or is_sentence(said), (key, at[key], said)


@check
def what_is_missing(folder):
    """without measurements, programs or such a group: one sentence"""
    for words in (["--render"], ["--programs", folder], ["--programs", folder / "none"]):
        status, said = run(folder, *words)
        assert status == 1 and is_sentence(said) and str(folder) in said, said
    for name in ("step_profile", "peak", "evaluation", "files"):
        (folder / name).touch()
    status, said = run(folder, "--programs", folder, "--only", "step,stop")
    assert status == 1 and is_sentence(said) and "no group stop" in said, said
    assert run(folder)[0] == 2  # the usage, as argparse says it
    assert list(folder.glob("benchmarks*")) == []
    for earlier in ("[", '{"runs": [{"group": [], "name": "", "allocator": ""}]}'):
        (folder / "benchmarks.json").write_text(earlier)
        status, said = run(folder, "--programs", folder, "--only", "step")
        assert status == 1 and is_sentence(said) and "benchmarks.json" in said, said


tally.finish()
