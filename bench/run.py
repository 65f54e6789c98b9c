"""Interleaves offsite's client with its peers and writes the table; bench/run.sh prepares what it needs."""

import argparse
import datetime
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
TUNED = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "17179869184", "MALLOC_TOP_PAD_": "268435456"}
GROUPED = ["--order", "grouped", "--every", "{every}", "--batch", "8"]
BF16 = [*GROUPED, "--bf16", "--act", "gelu_pytorch_tanh", "--frozen", "bf16"]
STRONGEST = [*BF16, "--pad", "keep", "--contiguous-head"]

# name, what it is, command, allocator settings of the second column, whether --quick runs it
PEERS = [
    ("fate", "FATE-LLM's way: Hugging Face Trainer, padded to 600, batch 1, float32",
     ["train_hf.py", "--pad", "fixed", "--optim", "adamw_torch", "--samples", "{fixed}"], True),
    ("mit", "MIT's way: padded to the longest, batch 4, bf16 autocast",
     ["train_mit.py", "--samples", "{fixed}", "--warmup", "1"], False),
    ("trainer-float32", "Hugging Face Trainer tuned by its flags, float32: length-grouped batches of 8, SDPA, fused AdamW",
     ["train_hf.py", *GROUPED], False),
    ("trainer-bf16", "the same with bf16 autocast, frozen weights in bf16, tanh-GELU kernel", ["train_hf.py", *BF16], True),
    ("strongest", "the same with logits at the scored positions only, the head's input contiguous",
     ["train_hf.py", *STRONGEST], True),
    ("compiled", "the same through torch.compile", ["train_hf.py", *STRONGEST, "--compile", "--warmup", "8"], False),
]
OURS = [
    ("offsite", "offsite, bf16, batches of 16", ["type=bfloat16", "batch=16"], True),
    ("offsite-float32", "offsite, float32, batches of 16", ["type=float32", "batch=16"], False),
]
BESIDE = {"offsite": "strongest", "offsite-float32": "trainer-float32"}
CURVE = [1, 4, 16, 64, 128]  # sequences a batch; 128 are about 15,000 tokens


def run(command, settings, environment):
    """The last line of JSON that a program prints."""
    done = subprocess.run([str(c) for c in command], env={**os.environ, **settings, **environment},
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=3600)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stderr[-3000:]}")
    record = json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1])
    rate = record["real_tok_per_s"]
    if record.get("pad") == "fixed" or record["bench"] == "train_mit":
        # A padded sample costs the same whatever its length: the mean length of the 512.
        rate = record["samples_per_s"] * record["mean_length_512"]
    return {"rate": rate, "cpu": record["user_s"] + record["sys_s"], "sys": record["sys_s"], "steps": record["steps"],
            "tokens": rate * record["wall_s"], "faults": record["minor_faults"] / record["steps"],
            "memory": record["peak_rss_mib"] * 1.048576, "record": record}


class Bench:
    def __init__(self, options):
        self.options = options
        small = options.quick or options.tiny
        self.sizes = {"fixed": 2 if options.tiny else 4 if options.quick else 12,
                      "every": 32 if options.tiny else 16 if options.quick else 1}
        self.steps = 2 if options.tiny else 8 if options.quick else 32
        self.rounds = options.rounds or (1 if options.tiny else 3)
        self.small = small
        self.environment = {"OMP_NUM_THREADS": str(options.threads), "OFFSITE_DATA": str(options.data),
                            "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

    def peer(self, words, settings=None):
        words = [w.format(**self.sizes) for w in words]
        return run([sys.executable, HERE / "peer" / words[0], *words[1:]], settings or {}, self.environment)

    def ours(self, words, steps=None, arena=1):
        return run([self.options.step_profile, "gpt2-small", f"threads={self.options.threads}", "rate=1", "vary=1", "warm=2",
                    f"steps={steps or self.steps}", f"data={self.options.data}", f"arena={arena}", *words],
                   {}, self.environment)

    def rounds_of_all(self):
        """{(name, allocator): [result a round]}, the two sides interleaved."""
        results = {}
        needed = {key for _, ours, theirs, _ in GOALS for key in (ours, theirs)}

        def wanted(name, own, quick):
            return (quick and (name, own) in needed) if self.small else (name, own) != ("compiled", "default")

        for number in range(self.rounds):
            for name, _, words, quick in PEERS:
                for own, settings in (("default", {}), ("tuned", TUNED)):
                    if wanted(name, own, quick):
                        self.add(results, number, (name, own), self.peer(words, settings))
                # Ours between the peers, each beside the one that it is measured by.
                for our_name, _, our_words, quick in OURS:
                    for own, arena in (("default", 0), ("tuned", 1)):
                        if name == BESIDE[our_name] and wanted(our_name, own, quick):
                            self.add(results, number, (our_name, own), self.ours(our_words, arena=arena))
            self.add(results, number, ("products", "default"), self.products())
        return results

    def products(self):
        """Gflop/s of bf16 products of the model's own size."""
        code = ("import torch,time,json\n"
                f"torch.set_num_threads({self.options.threads})\n"
                "r={}\n"
                "for t in (torch.bfloat16, torch.float32):\n"
                "  a=torch.ones(1472,768,dtype=t); b=torch.ones(768,3072,dtype=t); best=1e9\n"
                "  end=time.perf_counter()+1.5\n"
                "  while time.perf_counter()<end:\n"
                "    s=time.perf_counter(); a@b; best=min(best,time.perf_counter()-s)\n"
                "  r[str(t)]=2e-9*1472*768*3072/best\n"
                "print(json.dumps(r))")
        done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **self.environment},
                              stdout=subprocess.PIPE, text=True, check=True)
        rates = json.loads(done.stdout)
        return {"rate": rates["torch.bfloat16"], "float32": rates["torch.float32"]}

    @staticmethod
    def add(results, number, key, result):
        results.setdefault(key, []).append(result)
        print(f"round {number + 1}: {key[0]} ({key[1]} allocator): {result['rate']:.1f}", flush=True)

    def curve(self):
        """[(batch, [ours / strongest peer a round])]"""
        points = []
        for batch in CURVE if not self.small else []:
            ratios = []
            for _ in range(self.rounds):
                every = max(1, 64 // batch)
                words = ["train_hf.py", *STRONGEST]
                words[words.index("--batch") + 1] = str(batch)
                words[words.index("--every") + 1] = str(every)
                peer = self.peer(words, TUNED)
                ours = self.ours(["type=bfloat16", f"batch={batch}"], steps=max(2, 256 // batch))
                ratios.append(ours["rate"] / peer["rate"])
                print(f"batch {batch}: {ratios[-1]:.2f}", flush=True)
            points.append((batch, ratios))
        return points


def limit_flop(record):
    """Operations a counted token that the linear layers need: 2-4-2 blocks of width 768, all of the last block after its
    keys and values on scored rows only."""
    square, rows, scored = 768 * 768, record["rows"], record["scored"]
    block = 12 * square
    work = (4 * 4 + 3 * 6) * block * rows + 6 * (2 * square * rows + 10 * square * scored) + 4 * 50257 * 768 * scored
    return work / record["real_tokens"]


def spread(values, digits=2):
    return f"{min(values):.{digits}f} / {statistics.median(values):.{digits}f} / {max(values):.{digits}f}"


def ratios(results, ours, theirs):
    a, b = results.get(ours), results.get(theirs)
    return [x["rate"] / y["rate"] for x, y in zip(a, b)] if a and b else None


def versions():
    import accelerate
    import torch
    import transformers
    processor = re.search(r"model name\s*:\s*(.*)", pathlib.Path("/proc/cpuinfo").read_text())
    return [f"{processor.group(1) if processor else platform.machine()}, {os.cpu_count()} processors, "
            f"ATen uses {torch.backends.cpu.get_cpu_capability()}",
            f"torch {torch.__version__}, transformers {transformers.__version__}, accelerate {accelerate.__version__}, "
            f"Python {platform.python_version()}"]


GOALS = [
    ("FATE-LLM's way", ("offsite", "tuned"), ("fate", "default"), 30),
    ("the Trainer tuned by its flags, tuned allocator", ("offsite", "tuned"), ("trainer-bf16", "tuned"), 3.5),
    ("the strongest PyTorch variant, tuned allocator", ("offsite", "tuned"), ("strongest", "tuned"), 2),
    ("the same through torch.compile", ("offsite", "tuned"), ("compiled", "tuned"), 2),
    ("the Trainer in float32, ours in float32", ("offsite-float32", "tuned"), ("trainer-float32", "default"), 3.5),
]


def document(bench, results, points, budget):
    o = bench.options
    lines = ["# Benchmarks", "",
             "Written by `bench/run.sh`. The client's training step, GPT-2-small shape with random weights, bottom 2 + emulator 4 + "
             "top 2, the first 512 training samples of SciQ with their supports, dropout 0. Rates are in real tokens, without "
             "padding; peers that pad to one length are measured on some of the samples and counted with the mean length of "
             "the 512.", ""]
    if bench.small:
        lines += [f"**A short run ({'--tiny' if o.tiny else '--quick'}): fewer samples, no curve.**", ""]
    lines += [f"- {datetime.date.today()}; {o.threads} threads; {bench.rounds} interleaved rounds"]
    lines += [f"- {line}" for line in versions()]
    lines += ["- tuned allocator: peers with `" + " ".join(f"{k}={v}" for k, v in TUNED.items()) +
              "`, offsite with `TensorArena::install()`", "", "## Ratios", "",
              "| offsite against | minimum / median / maximum | goal |", "| --- | --- | --- |"]
    for text, ours, theirs, goal in GOALS:
        if (found := ratios(results, ours, theirs)):
            lines.append(f"| {text} | {spread(found)} | {goal} |")
    peaks = results[("products", "default")]
    for name, kind in (("offsite", "rate"), ("offsite-float32", "float32")):
        if (name, "tuned") in results:
            shares = [r["rate"] * limit_flop(r["record"]) * 1e-9 / p[kind] for r, p in zip(results[(name, "tuned")], peaks)]
            lines.append(f"| the limit of the products, {name} | {spread(shares)} | {'0.88' if kind == 'rate' else ''} |")
    lines += ["", "## Runs", "", "Medians; ms of processor time are for 1,000 tokens, peak memory is resident and includes mapped "
              "files.", "", "| client | allocator | tokens/s | ms of processor time | page faults a step | peak MB |",
              "| --- | --- | --- | --- | --- | --- |"]
    texts = {name: text for name, text, *_ in PEERS + OURS}
    for (name, allocator), runs in results.items():
        if name == "products":
            continue
        def middle(key, runs=runs):
            return statistics.median(r[key] for r in runs)
        cost = statistics.median(1e6 * r["cpu"] / r["tokens"] for r in runs)
        lines.append(f"| {texts[name]} | {allocator} | {middle('rate'):.0f} | {cost:.0f} | {middle('faults'):.0f} | "
                     f"{middle('memory'):.0f} |")
    if points:
        lines += ["", "## Batch sizes", "", "offsite in bf16 against the strongest PyTorch variant, tuned allocators.", "",
                  "| sequences a batch | minimum / median / maximum |", "| --- | --- |"]
        lines += [f"| {batch} | {spread(found)} |" for batch, found in points]
    lines += ["", "![Ratios](benchmarks.svg)", "", "## Budget of a step", "",
              "By `bench/step_profile` with its own allocation counter; shares are of processor time.", "", "```text",
              *budget.splitlines(), "```", "", "## Not run", "", "No GPU was at hand: the table on GPT2-XL's shape with "
              "FlashAttention and `torch.compile` was not run.", ""]
    return "\n".join(lines)


def plot(results):
    """Bars of the median ratios with their spread, on a logarithmic axis."""
    import math
    rows = [(text, found, goal) for text, ours, theirs, goal in GOALS if (found := ratios(results, ours, theirs))]
    width, left, line = 820, 380, 44
    span = max([math.log10(max(max(f), g)) for _, f, g in rows] + [0.1]) * 1.05

    def x(value):
        return left + (width - left - 30) * max(0.0, math.log10(value)) / span
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {line * len(rows) + 50}" '
             'font-family="sans-serif" font-size="13">',
             f'<rect width="{width}" height="{line * len(rows) + 50}" fill="white"/>',
             '<text x="10" y="20" font-weight="bold">offsite: how many times as fast as (logarithmic; | is the goal)</text>']
    for i, (text, found, goal) in enumerate(rows):
        y = 36 + i * line
        middle = statistics.median(found)
        parts += [f'<text x="{left - 8}" y="{y + 17}" text-anchor="end">{text}</text>',
                  f'<rect x="{left}" y="{y}" width="{max(1, x(middle) - left):.1f}" height="24" fill="#4878a8"/>',
                  f'<line x1="{x(min(found)):.1f}" x2="{x(max(found)):.1f}" y1="{y + 12}" y2="{y + 12}" stroke="black"/>',
                  f'<line x1="{x(goal):.1f}" x2="{x(goal):.1f}" y1="{y - 4}" y2="{y + 28}" stroke="#c04040" stroke-width="2"/>',
                  f'<text x="{left + 6}" y="{y + 17}" fill="white">{middle:.1f}</text>']
    return "\n".join([*parts, "</svg>", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--step-profile", type=pathlib.Path, required=True)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, default=HERE.parent / "docs")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    bench = Bench(parser.parse_args())
    results = bench.rounds_of_all()
    points = bench.curve()
    budget = subprocess.run([str(bench.options.step_profile), "gpt2-small", "vary=1", f"threads={bench.options.threads}",
                             f"data={bench.options.data}", f"steps={bench.steps}"],
                            env={**os.environ, **bench.environment}, stdout=subprocess.PIPE, text=True, check=True).stdout
    (bench.options.out / "benchmarks.md").write_text(document(bench, results, points, budget))
    (bench.options.out / "benchmarks.svg").write_text(plot(results))
    print(f"wrote {bench.options.out / 'benchmarks.md'}")


if __name__ == "__main__":
    main()
