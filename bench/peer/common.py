"""Shared by the peer benchmarks: data, models, layer freezing and process meters.

The environment variable OFFSITE_DATA names the folder of data: sciq/*.json and tokenizers/gpt2.
"""
from __future__ import annotations

import json
import os
import resource
import threading
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


# The shapes of bench/step_profile/shapes.hpp, and a tiny one that only shows that everything runs.
SHAPES = {
    "gpt2-xl": ("GPT2Config", dict(n_embd=1600, n_head=25, attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0)),
    "gpt2-tiny": ("GPT2Config", dict(n_embd=64, n_head=2, attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0)),
    "opt-350m": ("OPTConfig", dict(hidden_size=1024, ffn_dim=4096, num_attention_heads=16, word_embed_proj_dim=512,
                                   do_layer_norm_before=False, dropout=0.0, attention_dropout=0.0)),
    "llama-350m": ("LlamaConfig", dict(hidden_size=1024, intermediate_size=2752, num_attention_heads=16,
                                       num_key_value_heads=16, vocab_size=32000, max_position_embeddings=2048)),
}


def shaped(shape: str, layers: int, attn: str = "sdpa", act: str = "gelu_new"):
    """One of SHAPES with random weights."""
    import transformers
    torch.manual_seed(0)
    name, fields = SHAPES[shape]
    more = {"activation_function": act} if name == "GPT2Config" else {}
    config = getattr(transformers, name)(num_hidden_layers=layers, attn_implementation=attn, **fields, **more)
    return transformers.AutoModelForCausalLM.from_config(config)


def blocks_of(model):
    """The list of blocks, whatever the family calls it."""
    inner = model.transformer if hasattr(model, "transformer") else model.model
    inner = getattr(inner, "decoder", inner)
    return inner.h if hasattr(inner, "h") else inner.layers


def gpt2(layers: int, dropout: float = 0.0, attn: str = "sdpa", act: str = "gelu_new") -> GPT2LMHeadModel:
    """GPT-2 small's dimensions with random weights."""
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=layers, attn_pdrop=dropout, resid_pdrop=dropout, embd_pdrop=dropout,
        activation_function=act, attn_implementation=attn,
    )
    return GPT2LMHeadModel(config)


def freeze_all_but_adapters(model, bottom: int, top: int, frozen: str = "fp32") -> None:
    """Offsite-Tuning's client: only the first and last blocks learn.

    frozen = "bf16" or "fp16" stores the frozen matrices and embeddings (not the
    LayerNorm parameters) in that type.
    """
    model.requires_grad_(False)
    blocks = blocks_of(model)
    for block in list(blocks[:bottom]) + list(blocks[len(blocks) - top:]):
        block.requires_grad_(True)
    if frozen != "fp32":
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[frozen]
        for name, p in model.named_parameters():
            if not p.requires_grad and "ln_" not in name and "norm" not in name:
                p.data = p.data.to(dtype)


def sub_model(dropout: float, attn: str, act: str, frozen: str, shape: str = "gpt2", split=(2, 4, 2)):
    """Bottom adapters, emulator blocks and top adapters, so many of each."""
    layers = sum(split)
    model = gpt2(layers, dropout, attn, act) if shape == "gpt2" else shaped(shape, layers, attn, act)
    freeze_all_but_adapters(model, split[0], split[2], frozen)
    return model


def rss_mib() -> float:
    with open("/proc/self/statm", encoding="ascii") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def anonymous_kib() -> int:
    """Anonymous resident memory of this process: what mapped files hold is not counted."""
    with open("/proc/self/status", encoding="ascii") as f:
        return next((int(line.split()[1]) for line in f if line.startswith("RssAnon:")), 0)


class Meter:
    """Wall clock, CPU time, page faults and memory between start() and stop()."""

    def __init__(self):
        self.rss_before = None
        self.peak_anonymous = 0
        threading.Thread(target=self.watch, daemon=True).start()
        self.reset()

    def watch(self):
        while True:
            self.peak_anonymous = max(self.peak_anonymous, anonymous_kib())
            time.sleep(0.05)

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
            "peak_anonymous_mib": round(self.peak_anonymous / 1024),
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
