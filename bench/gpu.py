"""Interleaves offsite with its peers on one GPU and writes docs/benchmarks_gpu.{json,md}; bench/gpu.sh prepares what it needs.

GPT2-XL's shape: 48 blocks, 1,600 wide, of which a client trains 2 at the bottom and 2 at the top around an emulator of 16. With
`--device cpu --tiny` it only shows that everything runs.
"""

import argparse
import datetime
import json
import os
import pathlib
import statistics
import sys

import render
import run
from measurements import limit_flop, rate_of

PEAK = 990  # TFLOP/s in bf16 without sparsity, of the H100 that the goals are for
GOALS = {"share": 0.40, "ratio": 2}
GROUPED = ["--order", "grouped", "--bf16", "--act", "gelu_pytorch_tanh", "--frozen", "bf16"]
SCORED = [*GROUPED, "--pad", "scored"]
PEERS = {
    "fate": ("FATE-LLM's way: Hugging Face Trainer, padded to 600, batch 1, float32", ["--pad", "fixed", "--optim", "adamw_torch"]),
    "trainer": ("Hugging Face Trainer tuned by its flags: length-grouped batches, bf16 autocast, fused AdamW", GROUPED),
    "flash": ("the same with FlashAttention through SDPA, no mask, head at the scored rows only", [*SCORED, "--flash"]),
    "compiled": ("the same through torch.compile", [*SCORED, "--flash", "--compile", "--warmup", "8"]),
}
SIZES = {  # width and blocks of the bottom, the emulator and the top
    "gpt2-xl": (1600, (2, 16, 2)),
    "gpt2-tiny": (64, (1, 2, 1)),
}


def planned(o):
    """[(name, a call that returns records)] of one round."""
    width, split = SIZES[o.shape]
    environment = {"OFFSITE_DATA": str(o.data), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}
    common = ["--shape", o.shape, "--split", ",".join(map(str, split)), "--device", o.device]
    for name, (_, words) in PEERS.items():
        kernels = [word for word in words if o.device == "cuda" or word != "--flash"]
        size = ["--samples", 8 if o.tiny else 64] if name == "fate" else ["--batch", o.batch, "--every", 16 if o.tiny else 1]
        command = [sys.executable, run.HERE / "peer" / "train_hf.py", *common, *kernels, *size]
        yield name, lambda c=command: run.records(c, environment)
    blocks = dict(zip(("bottom", "emulator", "top"), split))
    command = [o.programs / "step_profile", o.shape, f"device={o.device}", f"data={o.data}", "vary=1", "rate=1", f"batch={o.batch}",
               "warm=2", f"steps={2 if o.tiny else 512 // o.batch}", "arena=0", *(f"{k}={v}" for k, v in blocks.items())]
    yield "offsite", lambda: run.records(command, environment)


def measure(o, path):
    import torch
    import transformers
    device = torch.cuda.get_device_name() if o.device == "cuda" else "no GPU"
    results = {"date": str(datetime.date.today()), "device": device, "shape": o.shape, "batch": o.batch, "rounds": o.rounds,
               "torch": torch.__version__, "transformers": transformers.__version__, "runs": []}
    for number in range(o.rounds):
        for name, call in planned(o):
            entry = {"name": name, "round": number}
            try:
                entry["records"] = call()
                what = f"{rate_of(entry['records'][0]):.0f} tokens/s"
            except run.Failed as error:
                entry["error"] = what = str(error)
            results["runs"].append(entry)
            path.write_text(json.dumps(results, separators=(",", ":")).replace('{"name"', '\n{"name"') + "\n")
            print(f"round {number + 1}: {name}: {what}", flush=True)


def teraflops(record, shape):
    """Useful ones a second: those of the linear layers that have to be computed, padding and attention not counted."""
    width, (bottom, emulator, top) = SIZES[shape]
    rows = {"rows": record["real_tokens"] - record["samples"], **record}
    return 1e-12 * limit_flop(rows, width, emulator, bottom + top) * record["real_tok_per_s"]


def document(results):
    runs = {name: {r["round"]: r["records"][0] for r in results["runs"] if r["name"] == name and "records" in r}
            for name in [*PEERS, "offsite"]}
    texts = {name: text for name, (text, _) in PEERS.items()} | {"offsite": "offsite, bf16"}
    rows, rates = [], {name: {n: rate_of(r) for n, r in found.items()} for name, found in runs.items()}
    for name, found in runs.items():
        useful = [teraflops({**r, "real_tok_per_s": rate_of(r)}, results["shape"]) for r in found.values()]
        rows.append([texts[name], render.spread(list(rates[name].values()), 0), render.spread(useful, 1),
                     f"{100 * statistics.median(useful) / PEAK:.1f} %" if useful else "",
                     f"{max(r['peak_device_mib'] for r in found.values()) * 1.048576:.0f}"
                     if found and all("peak_device_mib" in r for r in found.values()) else ""])
    lines = ["# Benchmarks on a GPU", "", f"Written by `bench/gpu.sh` on {results['date']}: {results['device']}, torch {results['torch']}, "
             f"transformers {results['transformers']}; {results['shape']}'s shape, batches of {results['batch']} sequences of SciQ, "
             f"{results['rounds']} interleaved rounds. Useful operations are those of the linear layers that have to be computed.", "",
             *render.table(["client", "tokens/s: minimum / median / maximum", "useful TFLOP/s", f"of {PEAK}", "peak MB on the device"], rows)]
    best = max((name for name in PEERS if rates[name]), key=lambda n: statistics.median(rates[n].values()), default=None)
    if best and rates["offsite"]:
        ratios = [rates["offsite"][n] / rates[best][n] for n in rates["offsite"] if n in rates[best]]
        share = statistics.median(teraflops(r, results["shape"]) for r in runs["offsite"].values()) / PEAK
        lines += [f"offsite is {render.spread(ratios)} times as fast as the best peer (goal {GOALS['ratio']}: "
                  f"{render.verdict(ratios, GOALS['ratio'])}) and computes {100 * share:.1f} % of {PEAK} TFLOP/s (goal "
                  f"{100 * GOALS['share']:.0f} %: {render.verdict([share], GOALS['share'])}).", ""]
    failed = {(r["name"], r["error"]) for r in results["runs"] if "error" in r}
    if failed:
        lines += ["Not measured:", "", *(f"- {name}: {error}" for name, error in sorted(failed)), ""]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=pathlib.Path, required=True, help="folder of step_profile")
    parser.add_argument("--data", type=pathlib.Path, default=run.HERE.parent.parent / "shared" / "data")
    parser.add_argument("--out", type=pathlib.Path, default=run.HERE.parent / "docs")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="a tiny shape and few samples: shows that everything runs")
    options = parser.parse_args()
    options.shape = "gpt2-tiny" if options.tiny else "gpt2-xl"
    path = options.out / "benchmarks_gpu.json"
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
    measure(options, path)
    (options.out / "benchmarks_gpu.md").write_text(document(json.loads(path.read_text())))
    print(f"wrote {options.out / 'benchmarks_gpu.md'}")


if __name__ == "__main__":
    main()
