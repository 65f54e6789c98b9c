"""Shared by the peer benchmarks: data, models, layer freezing and process meters.

The environment variable OFFSITE_DATA names the folder of data: sciq/*.json and tokenizers/gpt2.
"""
from __future__ import annotations

import json
import os
import resource
import time
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

DATA = Path(os.environ.get("OFFSITE_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
EXAMPLES = 512  # every benchmark trains on the first 512 of SciQ's train.json, in file order
SPARE = 256     # the examples after them, used for warm-up only


def tokenizer() -> GPT2Tokenizer:
    """GPT-2's byte-level BPE from encoder.json and vocab.bpe; pad = eos, as FATE does."""
    folder = DATA / "tokenizers" / "gpt2"
    vocab = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    lines = (folder / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:]
    merges = [tuple(line.split()) for line in lines if line]
    tok = GPT2Tokenizer(vocab=vocab, merges=merges, model_max_length=1024)
    tok.pad_token = tok.eos_token
    return tok


def sciq(split: str) -> list[dict]:
    return json.loads((DATA / "sciq" / f"{split}.json").read_text(encoding="utf-8"))


def qa_features(tok, rows: list[dict]) -> list[dict]:
    """FATE's QaDataset (taken from MIT's): context + answer, context labels -100, no EOS."""
    contexts = tok([f"{r['support']}\nQuestion: {r['question']}\nAnswer:" for r in rows])["input_ids"]
    answers = tok([r["correct_answer"] for r in rows])["input_ids"]
    return [
        {"input_ids": c + a, "attention_mask": [1] * (len(c) + len(a)), "labels": [-100] * len(c) + a}
        for c, a in zip(contexts, answers)
    ]


def pad_to(features: list[dict], length: int, pad_id: int) -> list[dict]:
    """FATE's pad_function: right padding to one length for all, then truncation."""
    out = []
    for f in features:
        n = max(0, length - len(f["input_ids"]))
        out.append({
            "input_ids": (f["input_ids"] + [pad_id] * n)[:length],
            "attention_mask": (f["attention_mask"] + [0] * n)[:length],
            "labels": (f["labels"] + [-100] * n)[:length],
        })
    return out


def gpt2(layers: int, dropout: float = 0.0, attn: str = "sdpa", act: str = "gelu_new") -> GPT2LMHeadModel:
    """GPT-2 small's dimensions with random weights."""
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=layers, attn_pdrop=dropout, resid_pdrop=dropout, embd_pdrop=dropout,
        activation_function=act, attn_implementation=attn,
    )
    return GPT2LMHeadModel(config)


def freeze_all_but_adapters(model: GPT2LMHeadModel, bottom: int, top: int, frozen: str = "fp32") -> None:
    """Offsite-Tuning's client: only the first and last blocks learn.

    frozen = "bf16" or "fp16" stores the frozen matrices and embeddings (not the
    LayerNorm parameters) in that type.
    """
    model.requires_grad_(False)
    blocks = model.transformer.h
    for block in list(blocks[:bottom]) + list(blocks[len(blocks) - top:]):
        block.requires_grad_(True)
    if frozen != "fp32":
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[frozen]
        for name, p in model.named_parameters():
            if not p.requires_grad and "ln_" not in name:
                p.data = p.data.to(dtype)


def sub_model(dropout: float, attn: str, act: str, frozen: str) -> GPT2LMHeadModel:
    """2 bottom adapters + 4 emulator blocks + 2 top adapters."""
    model = gpt2(8, dropout, attn, act)
    freeze_all_but_adapters(model, 2, 2, frozen)
    return model


def rss_mib() -> float:
    with open("/proc/self/statm", encoding="ascii") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


class Meter:
    """Wall clock, CPU time, page faults and memory between start() and stop()."""

    def __init__(self):
        self.rss_before = None
        self.reset()

    def reset(self):
        self.samples = self.real = self.padded = self.steps = 0

    def before_training(self):
        self.rss_before = rss_mib()
        self.born = time.perf_counter()

    def start(self):
        self.reset()
        self.usage = resource.getrusage(resource.RUSAGE_SELF)
        self.t0 = time.perf_counter()

    def count(self, samples: int, real: int, padded: int):
        self.samples += samples
        self.real += real
        self.padded += padded

    def step(self):
        """Called at the end of each optimizer step; the clock stops at the last."""
        self.steps += 1
        self.t1 = time.perf_counter()
        self.usage_end = resource.getrusage(resource.RUSAGE_SELF)

    def report(self) -> dict:
        wall = self.t1 - self.t0
        a, b = self.usage, self.usage_end
        return {
            "steps": self.steps, "samples": self.samples, "wall_s": round(wall, 3),
            "s_per_sample": round(wall / self.samples, 4), "samples_per_s": round(self.samples / wall, 3),
            "real_tok_per_s": round(self.real / wall, 1), "padded_tok_per_s": round(self.padded / wall, 1),
            "real_tokens": self.real, "padded_tokens": self.padded,
            "user_s": round(b.ru_utime - a.ru_utime, 2), "sys_s": round(b.ru_stime - a.ru_stime, 2),
            "minor_faults": b.ru_minflt - a.ru_minflt,
            "warmup_s": round(self.t0 - self.born, 2),
            "rss_before_mib": round(self.rss_before), "peak_rss_mib": round(b.ru_maxrss / 1024),
            "threads": torch.get_num_threads(),
        }


def emit(record: dict, path: str | None) -> None:
    """One JSON line to stdout and, if asked, to a results file."""
    record["env"] = {k: v for k, v in os.environ.items() if k.startswith(("MALLOC_", "GLIBC_", "LD_PRELOAD"))}
    line = json.dumps(record)
    print(line, flush=True)
    if path:
        with open(path, "a", encoding="utf-8") as f:
            f.write(line + "\n")
