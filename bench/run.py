"""Interleaves offsite with its peers and writes docs/benchmarks.{json,md,svg}; bench/run.sh prepares what it needs.

All that is measured goes into benchmarks.json, one entry a run; render.py makes the document of it. With --render nothing
is measured. With --only GROUP,... these groups are measured anew and the others kept. What was measured until a run is
cut off is written, too, and the document names the rest.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import re
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import measurements
import render

HERE = pathlib.Path(__file__).resolve().parent
TUNED = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "17179869184", "MALLOC_TOP_PAD_": "268435456"}
GROUPED = ["--order", "grouped", "--batch", "8"]
BF16 = [*GROUPED, "--bf16", "--act", "gelu_pytorch_tanh", "--frozen", "bf16"]
STRONGEST = [*BF16, "--pad", "keep", "--contiguous-head"]
PYTHON = 10  # seconds that a peer takes to start

PEERS = {
    "fate": ["train_hf.py", "--pad", "fixed", "--optim", "adamw_torch"],
    "mit": ["train_mit.py", "--warmup", "1"],
    "trainer-float32": ["train_hf.py", *GROUPED],
    "trainer-bf16": ["train_hf.py", *BF16],
    "strongest": ["train_hf.py", *STRONGEST],
    "compiled": ["train_hf.py", *STRONGEST, "--compile", "--warmup", "8"],
}
SHAPES = ["opt-350m", "llama-350m"]
SCALES = {  # sizes of a full run, of --quick and of --tiny
    # rounds: of the step in bf16, of the limit, of what else has a goal, of what has none
    # steps: of offsite after each peer; curve: (sequences a batch, steps of the peer)
    "full": dict(rounds=(4, 4, 3, 2), padded=6, every={"trainer-float32": 12, "trainer-bf16": 8, "strongest": 4, "compiled": 6},
                 steps=8, float32_steps=8, questions=(8, 40), profile=12, minutes=40,
                 curve=[(1, 24), (4, 8), (16, 2), (64, 1), (128, 1)], shape_steps=2),
    "quick": dict(rounds=(2, 1, 1, 0), padded=2, every={"trainer-bf16": 16, "strongest": 10}, steps=2, float32_steps=0,
                  questions=(4, 24), profile=5, minutes=5, curve=[], shape_steps=0),
    "tiny": dict(rounds=(1, 1, 1, 1), padded=1, every={"strongest": 64}, steps=1, float32_steps=0, questions=(1, 2), profile=2,
                 minutes=10, curve=[(1, 1), (2, 1)], shape_steps=1),
}


class Task(NamedTuple):
    group: str
    name: str
    round: int
    seconds: float   # an estimate
    call: object     # returns what to keep
    allocator: str = ""


class Failed(Exception):
    """A sentence for whoever runs this."""


def records(command, settings, timeout=600):
    """The lines of JSON that a program prints."""
    try:
        done = subprocess.run([str(c) for c in command], env={**os.environ, **settings}, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise Failed(f"took more than {timeout:.0f} s") from None
    except OSError as error:
        raise Failed(str(error)) from None
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        named = [line for line in lines if re.search(r"(Error|Exception|Compiler)\b.*:", line)]
        raise Failed(f"status {done.returncode}: {(named or lines)[-1].strip()[:300]}")
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]
    if not found:
        raise Failed("printed no line of JSON")
    return found


class Bench:
    def __init__(self, options):
        self.options = options
        self.scale_name = "tiny" if options.tiny else "quick" if options.quick else "full"
        self.scale = SCALES[self.scale_name]
        self.rounds, self.of_limit, self.fewer, self.fewest = (options.rounds or count for count in self.scale["rounds"])
        self.environment = {"OMP_NUM_THREADS": str(options.threads), "OFFSITE_DATA": str(options.data),
                            "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}
        self.programs = options.programs
        self.timeout = 600  # seconds that a run may take

    # --- what is run -------------------------------------------------------------------------------------------------

    def peer(self, *words, tuned=True):
        command = [sys.executable, HERE / "peer" / words[0], *words[1:]]
        return lambda: records(command, {**self.environment, **(TUNED if tuned else {})}, self.timeout)

    def profile(self, *words, rate=1):
        command = [self.programs / "step_profile", f"threads={self.options.threads}", f"data={self.options.data}",
                   "vary=1", *words, *(["rate=1"] if rate else ["json=1"])]
        return lambda: records(command, self.environment, self.timeout)

    def program(self, name, *words):
        return lambda: records([self.programs / name, *words], self.environment, self.timeout)

    def kernels(self):
        command = [self.programs / "kernels", "--benchmark_format=json",
                   f"--benchmark_min_time={0.02 if self.scale_name == 'tiny' else 0.15}"]
        if not command[0].exists():
            raise Failed("was not built: Google Benchmark (libbenchmark-dev) is missing")
        done = subprocess.run([str(c) for c in command], env={**os.environ, **self.environment}, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True, timeout=300)
        if done.returncode != 0:
            raise Failed(f"status {done.returncode}")
        keep = ("name", "cpu_time", "real_time", "time_unit")
        return [{"bench": "kernels", "kernels": [{k: b[k] for k in keep} for b in json.loads(done.stdout)["benchmarks"]]}]

    def products(self):
        """Gflop/s of products of the model's own size: the best one of two seconds, and all of them; and of the processor's
        instructions alone."""
        code = ("import torch,time,json\n"
                f"torch.set_num_threads({self.options.threads})\n"
                "r={}\n"
                "for t in (torch.bfloat16, torch.float32):\n"
                "  a=torch.ones(1472,768,dtype=t); b=torch.ones(768,3072,dtype=t); took=[]\n"
                "  end=time.perf_counter()+2\n"
                "  while time.perf_counter()<end:\n"
                "    s=time.perf_counter(); a@b; took.append(time.perf_counter()-s)\n"
                "  name=str(t)[6:]; flop=2e-9*1472*768*3072\n"
                "  r[name]=flop/min(took); r[name+' mean']=flop*len(took)/sum(took)\n"
                "print(json.dumps(r))")
        return records([sys.executable, "-c", code], self.environment) + \
            records([self.programs / "peak", f"threads={self.options.threads}"], self.environment)

    # --- what is planned ---------------------------------------------------------------------------------------------

    def sliced(self, name, number, less=1):
        """A peer on one of its slices: another each round, the middle one first. `less` makes it smaller."""
        every = less * self.scale["every"][name]
        offset = (every // 2 + (0, -1, 1, 2)[number % 4] * max(1, every // 4)) % every
        return [*PEERS[name], "--every", every, "--offset", offset]

    def sliced_seconds(self, name, rate):
        batches = max(1, 64 // self.scale["every"][name])
        return PYTHON + (batches + 2) * 930 / rate

    def ours(self, number, kind, steps, **settings):
        first = (number * steps * 16) % 512
        return self.profile("gpt2-small", f"type={kind}", "batch=16", "warm=2", f"steps={steps}", f"from={first}",
                            *(f"{k}={v}" for k, v in settings.items()))

    def step_tasks(self):
        s = self.scale
        for r in range(self.rounds):
            peers = list(self.bfloat16_peers(r))
            for part, peer in enumerate(peers):
                yield peer
                yield self.own_step("step", r * len(peers) + part, r)
            if s["float32_steps"] and r < self.fewer:
                yield Task("step", "offsite-float32", r, 5 + (s["float32_steps"] + 2) * 3.1,
                           self.ours(r, "float32", s["float32_steps"]), "tuned")
                yield Task("step", "trainer-float32", r, self.sliced_seconds("trainer-float32", 280),
                           self.peer(*self.sliced("trainer-float32", r), tuned=False), "default")
            if "compiled" in s["every"] and r < self.fewest:  # two minutes each, most of them the compiler's
                yield Task("step", "compiled", r, PYTHON + 100, self.peer(*self.sliced("compiled", r)), "tuned")

    def own_step(self, group, part, number):
        """offsite on the `part`-th samples, for round `number`."""
        steps = self.scale["steps"]
        return Task(group, "offsite", number, 3 + (steps + 2) * 1.4, self.ours(part, "bfloat16", steps), "tuned")

    def bfloat16_peers(self, number):
        padded = self.scale["padded"]
        yield Task("step", "fate", number, PYTHON + (padded + 2) * 2.2,
                   self.peer(*PEERS["fate"], "--samples", padded, tuned=False), "default")
        if "trainer-bf16" in self.scale["every"]:
            yield Task("step", "trainer-bf16", number, self.sliced_seconds("trainer-bf16", 550),
                       self.peer(*self.sliced("trainer-bf16", number)), "tuned")
        for tuned in (True, False) if self.scale_name == "full" else (True,):
            yield Task("step", "strongest", number, self.sliced_seconds("strongest", 680),
                       self.peer(*self.sliced("strongest", number), tuned=tuned), "tuned" if tuned else "default")

    def product_tasks(self):
        """Ours between products of the same minute: a shared machine's speed differs more from one minute to the next than what is
        looked for."""
        for r in range(self.of_limit):
            yield Task("products", "before", r, 11, self.products)
            yield self.own_step("products", r, r)
            if self.scale["float32_steps"]:
                yield Task("products", "offsite-float32", r, 3 + 6 * 2.8, self.ours(r, "float32", 4), "tuned")
            yield Task("products", "after", r, 11, self.products)

    def evaluation_tasks(self):
        theirs, own = self.scale["questions"]
        for r in range(self.fewer):
            for kind, rate in (("float32", 1), ("bfloat16", 2)):
                if kind == "bfloat16" and self.scale_name == "tiny":
                    continue
                yield Task("evaluation", f"lm-eval {kind}", r, PYTHON + 4 + (theirs + 2) / rate,
                           self.peer("eval_mc.py", "--engine", "lm-eval", "--dtype", kind, "--questions", theirs, "--begin",
                                     r * own, "--warmup", 2))
                yield Task("evaluation", f"offsite {kind}", r, 3 + (own + 8) / 8,
                           self.program("evaluation", f"data={self.options.data}", f"type={kind}", f"questions={own}",
                                        f"from={r * own}", f"threads={self.options.threads}"))

    def curve_tasks(self):
        """Both sides train on the same samples: the peer sorts them by length, ours takes them as they come."""
        points = self.scale["curve"]
        for r in range(self.fewest if points else 0):
            first = r * 128
            warmed = [(batch, 1 if batch <= 16 else 0, steps) for batch, steps in points]
            yield Task("curve", "strongest", r, PYTHON + sum((w + n) * b * 116 / 600 for b, w, n in warmed),
                       self.peer(*PEERS["strongest"], "--first", first, "--curve", ",".join(f"{b}:{w}:{n}" for b, w, n in warmed)),
                       "tuned")
            for batch, steps in points:
                yield Task("curve", f"offsite {batch}", r, 5 + (1 + steps) * batch * 116 / 1000,
                           self.profile("gpt2-small", "type=bfloat16", f"batch={batch}", f"warm={2 if batch <= 16 else 1}",
                                        f"steps={steps}", f"from={first}"), "tuned")

    def shape_tasks(self):
        steps = self.scale["shape_steps"]
        for r in range(self.fewest if steps else 0):
            for shape in SHAPES[-1:] if self.scale_name == "tiny" else SHAPES:
                batch, first = (16 if steps > 1 else 2), r * 48
                yield Task("shapes", f"strongest {shape}", r, PYTHON + 4 + (steps + 1) * batch * 116 / 330,
                           self.peer(*PEERS["strongest"], "--shape", shape, "--first", first, "--curve", f"{batch}:1:{steps}"), "tuned")
                yield Task("shapes", f"offsite {shape}", r, 8 + (steps + 1) * batch * 116 / 600,
                           self.profile(shape, "type=bfloat16", f"batch={batch}", "warm=1", f"steps={steps}", f"from={first}"),
                           "tuned")

    def budget_tasks(self):
        s = self.scale
        yield Task("budget", "bfloat16", 0, 6 + s["profile"] * 1.7,
                   self.profile("gpt2-small", "type=bfloat16", "batch=16", f"steps={s['profile']}", rate=0))
        if self.scale_name == "full":
            yield Task("budget", "float32", 0, 6 + 7 * 3.4,
                       self.profile("gpt2-small", "type=float32", "batch=16", "steps=4", rate=0))

    def kernel_tasks(self):
        if self.scale_name != "quick":
            yield Task("kernels", "kernels", 0, 10 if self.scale_name == "tiny" else 40, self.kernels)

    def memory_tasks(self):
        if self.scale_name == "full":
            for r in range(self.fewest):
                for name, value in render.RECOMPUTE.items():
                    yield Task("recompute", name, r, 3 + 4 * 1.9, self.ours(0, "bfloat16", 2, recompute=value), "tuned")
            yield Task("cache", "cache", 0, 15, self.profile("gpt2-small", "type=bfloat16", "batch=16", "warm=0", "steps=4",
                                                             "bottom=0", "emulator=6", "top=2", "cache=2000", "epochs=3"), "tuned")

    def file_tasks(self):
        small = self.scale_name == "tiny"
        yield Task("files", "files", 0, 4 if small else 4 + 3 * self.fewer,
                   self.program("files", f"rounds={self.fewer}", f"small={int(small)}"))

    def extra_tasks(self):
        """What is for information only, measured once."""
        if self.scale_name != "full":
            return
        yield Task("warm", "warm", 0, 3 + 9 * 1.4, self.profile("gpt2-small", "type=bfloat16", "batch=16", "vary=0", "steps=6"), "tuned")
        yield Task("step", "mit", 0, PYTHON + 20, self.peer(*PEERS["mit"], "--samples", 4, tuned=False), "default")
        yield Task("step", "offsite", 0, 5 + 10 * 1.8, self.ours(0, "bfloat16", 8, arena=0), "default")
        yield Task("step", "trainer-bf16", 0, PYTHON + 7 * 930 / 354,
                   self.peer(*self.sliced("trainer-bf16", 0, 2), tuned=False), "default")

    def tasks(self):
        """The most important first: what a cut-off run has not reached is missing."""
        parts = (self.step_tasks, self.product_tasks, self.evaluation_tasks, self.budget_tasks, self.curve_tasks, self.shape_tasks, self.extra_tasks,
                 self.kernel_tasks, self.memory_tasks, self.file_tasks)
        tasks = [task for part in parts for task in part()]
        groups = list(dict.fromkeys(task.group for task in tasks))
        wanted = self.options.only.split(",") if self.options.only else groups
        if unknown := set(wanted) - set(groups):
            raise Failed(f"there is no group {', '.join(sorted(unknown))}; there are {', '.join(groups)}")
        return [task for task in tasks if task.group in wanted]


def versions():
    try:
        import accelerate
        import torch
        import transformers
    except ImportError as error:
        raise Failed(f"{sys.executable} has no {error.name}, which the peers need: bench/run.sh installs it") from None
    processor = re.search(r"model name\s*:\s*(.*)", pathlib.Path("/proc/cpuinfo").read_text())
    found = {"processor": processor.group(1) if processor else platform.machine(), "processors": os.cpu_count(),
             "capability": torch.backends.cpu.get_cpu_capability(), "python": platform.python_version(),
             "torch": torch.__version__, "transformers": transformers.__version__, "accelerate": accelerate.__version__}
    try:
        import lm_eval
        found["lm-eval"] = lm_eval.__version__
    except (ImportError, AttributeError):
        pass
    compiler = subprocess.run(["c++", "--version"], stdout=subprocess.PIPE, text=True, check=False).stdout
    found["compiler"] = compiler.splitlines()[0] if compiler else "none"
    return found


def label(run):
    """What tells one run from another; `run` is a Task, or an entry of benchmarks.json."""
    get = run.get if isinstance(run, dict) else run._asdict().get
    return get("group"), get("name"), get("allocator")


def timed(tasks, old):
    """The tasks with the time that each took when `old` was measured, where that is known."""
    took = {}
    for run in old:
        if "records" in run and isinstance(run.get("seconds"), (int, float)):
            took.setdefault(label(run), []).append(run["seconds"])
    return [task._replace(seconds=max(took[label(task)])) if label(task) in took else task for task in tasks]


def announce(tasks, limit):
    groups = {}
    for task in tasks:
        number, seconds = groups.get(task.group, (0, 0.0))
        groups[task.group] = number + 1, seconds + task.seconds
    for group, (number, seconds) in groups.items():
        print(f"  {group:<12}{number:3} run{' ' if number == 1 else 's'}{seconds / 60:6.1f} min")
    print(f"  {'all':<12}{len(tasks):3} runs{sum(t.seconds for t in tasks) / 60:6.1f} min estimated, {limit / 60:.0f} min at most", flush=True)


def stored(path):
    """What is in a benchmarks.json."""
    try:
        found = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise Failed(f"{path} is no JSON: {error}") from None
    runs = found.get("runs") if isinstance(found, dict) else None
    if not isinstance(runs, list) or not all(isinstance(run, dict) and all(isinstance(part, str) for part in label(run)) for run in runs):
        raise Failed(f"{path} holds no list of runs as this program writes it")
    return found


def measure(bench, path):
    """Runs all tasks; what was measured is in `path` after each of them."""
    o = bench.options
    if absent := [name for name in ("step_profile", "peak", "evaluation", "files") if not (o.programs / name).is_file()]:
        raise Failed(f"{o.programs} has no program {', '.join(absent)}: bench/run.sh builds it")
    before = stored(path) if path.exists() else {"runs": []}
    tasks = bench.tasks()
    if before.get("slices") == bench.scale["every"]:  # of the same sizes, then
        tasks = timed(tasks, before["runs"])
    groups = {task.group for task in tasks}
    kept = [{"date": before.get("date"), **run} for run in before["runs"] if run["group"] not in groups] if o.only else []
    results = {"date": str(datetime.date.today()), "scale": bench.scale_name, "threads": o.threads, "rounds": bench.rounds,
               "allocator": TUNED, "slices": bench.scale["every"], "versions": versions(),
               "planned": [[*label(task), task.round] for task in tasks], "runs": kept}
    limit = 60 * (o.minutes or bench.scale["minutes"])
    announce(tasks, limit)
    begin, planned, estimated = time.monotonic(), sum(t.seconds for t in tasks), 0.0
    for number, task in enumerate(tasks):
        gone = time.monotonic() - begin
        slowness = gone / estimated if estimated > 60 else 1.0
        entry = {"group": task.group, "name": task.name, "allocator": task.allocator, "round": task.round}
        if gone + task.seconds * slowness > limit:
            entry["skipped"] = f"no time was left within {limit / 60:.0f} minutes"
            what = "skipped"
        else:
            bench.timeout = min(600, max(120, 4 * task.seconds * max(slowness, 1)))  # what hangs must not cost the rest
            try:
                entry["records"] = task.call()
                what = measurements.headline(entry)
            except (Failed, ArithmeticError, OSError, ValueError, subprocess.SubprocessError) as error:
                entry["error"] = str(error)
                what = f"failed: {error}"
            entry["seconds"] = round(time.monotonic() - begin - gone, 1)
            estimated += task.seconds
        results["runs"].append(entry)
        path.write_text(json.dumps(results, indent=None, separators=(",", ":")).replace('{"group"', '\n{"group"') + "\n")
        gone = time.monotonic() - begin
        left = (planned - sum(t.seconds for t in tasks[:number + 1])) * (gone / estimated if estimated > 60 else 1.0)
        print(f"[{gone / 60:4.1f} min, {min(left, limit - gone) / 60:4.1f} left] {task.group}: {task.name} {task.allocator} round "
              f"{task.round + 1}: {what}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=pathlib.Path, help="folder of step_profile, peak, evaluation, files, kernels")
    parser.add_argument("--data", type=pathlib.Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--out", type=pathlib.Path, default=HERE.parent / "docs")
    parser.add_argument("--rounds", type=int, default=0, help="of everything")
    parser.add_argument("--minutes", type=float, default=0, help="what would take longer is left out")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", default="", help="measure these groups anew: step, products, evaluation, curve, ...")
    parser.add_argument("--render", action="store_true", help="measure nothing: make the document of benchmarks.json")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    results = options.out / "benchmarks.json"
    try:
        if not options.render:
            if options.programs is None:
                parser.error("--programs is needed to measure")
            options.out.mkdir(parents=True, exist_ok=True)  # before the first minute is measured
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            try:
                measure(Bench(options), results)
            except KeyboardInterrupt:
                print("cut off: the document names what was not measured", flush=True)
        made_of = stored(results)
        try:
            paths = render.write(made_of, options.out)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise Failed(f"{results} is not as this program writes it: {type(error).__name__} {error}") from None
    except (Failed, OSError) as error:
        sys.exit(f"run.py: {error}")
    for path in paths:
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
