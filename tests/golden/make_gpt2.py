"""Makes the golden values of GPT-2 with Hugging Face transformers, in float32, one thread, eager attention.

    python tests/golden/make_gpt2.py

For each configuration, a folder gpt2/NAME holds config.json and model.safetensors as `save_pretrained` writes them, and
expected.safetensors: for sequence i `ids.i` (T), `labels.i` (T: -100 = not scored), `logits.i` (T, V); `loss`, the mean
cross-entropy over all scored tokens of all sequences; and `grad.NAME`, its gradient, for every parameter.
Made with torch 2.13.0 and transformers 5.23.0.
"""

import pathlib
import shutil

import torch
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel

CONFIGURATIONS = {
    "odd_width": dict(n_embd=33, n_head=3, n_layer=2, vocab_size=61, n_positions=40),
    "five_heads": dict(n_embd=20, n_head=5, n_layer=3, vocab_size=37, n_positions=24, n_inner=52,
                       activation_function="relu"),
    "inverse_layer": dict(n_embd=48, n_head=3, n_layer=2, vocab_size=53, n_positions=44, n_inner=71,
                          scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=True),
    "untied": dict(n_embd=32, n_head=2, n_layer=2, vocab_size=45, n_positions=96, tie_word_embeddings=False,
                   activation_function="gelu", layer_norm_epsilon=1e-6),
    "unscaled": dict(n_embd=21, n_head=7, n_layer=2, vocab_size=29, n_positions=20, scale_attn_weights=False,
                     activation_function="silu"),
    "quick": dict(n_embd=24, n_head=1, n_layer=2, vocab_size=31, n_positions=48, activation_function="quick_gelu"),
    "tanh": dict(n_embd=16, n_head=4, n_layer=2, vocab_size=23, n_positions=16, activation_function="tanh",
                 tie_word_embeddings=False),
}


def make(folder: pathlib.Path, seed: int, options: dict) -> None:
    torch.manual_seed(seed)
    config = GPT2Config(**options, attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0, bos_token_id=0, eos_token_id=0,
                        attn_implementation="eager")
    model = GPT2LMHeadModel(config)
    with torch.no_grad():  # far from the start, where biases are 0 and attention is nearly uniform
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.3)
            elif parameter.dim() == 1:
                parameter.normal_(1, 0.3)
            else:
                parameter.normal_(0, 0.25)
    model.train()
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)

    context = options["n_positions"]
    expected, losses, scored = {}, 0.0, 0
    for i, length in enumerate([context, max(2, context // 2 - 1), max(2, context // 3)]):
        ids = torch.randint(0, options["vocab_size"], (length,))
        labels = ids.clone()
        labels[: length // 3] = -100
        logits = model(ids[None]).logits[0]
        losses = losses + torch.nn.functional.cross_entropy(logits[:-1], labels[1:], reduction="sum", ignore_index=-100)
        scored += int((labels[1:] != -100).sum())
        expected |= {f"ids.{i}": ids, f"labels.{i}": labels, f"logits.{i}": logits.detach()}
    loss = losses / scored
    loss.backward()
    expected["loss"] = loss.detach()
    for name, parameter in model.named_parameters():
        expected[f"grad.{name}"] = parameter.grad
    save_file({k: v.contiguous() for k, v in expected.items()}, folder / "expected.safetensors")


def main() -> None:
    torch.set_num_threads(1)
    here = pathlib.Path(__file__).parent / "gpt2"
    for seed, (name, options) in enumerate(CONFIGURATIONS.items()):
        make(here / name, seed, options)


if __name__ == "__main__":
    main()
