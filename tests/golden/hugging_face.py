"""What the golden values of every model family are made by: Hugging Face transformers, float32, one thread, eager attention.

`make` fills a folder with config.json and model.safetensors as `save_pretrained` writes them, and
expected.safetensors: for sequence i `ids.i` (T), `labels.i` (T: -100 = not scored), `logits.i` (T, V); `loss`, the mean
cross-entropy over all scored tokens of all sequences; and `grad.NAME`, its gradient, for every parameter, under the
name that model.safetensors has. Made with torch 2.13.0 and transformers 5.23.0.
"""

import pathlib
import shutil
import sys

import torch
from safetensors import safe_open
from safetensors.torch import save_file


def randomise(model: torch.nn.Module) -> None:
    """Goes far from the start, where biases are 0 and attention is nearly uniform."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.3)
            elif parameter.dim() == 1:
                parameter.normal_(1, 0.3)
            else:
                parameter.normal_(0, 0.25)


def make(folder: pathlib.Path, model_type: type, config, seed: int, context: int, first_id: int = 0) -> None:
    """Three sequences, the first as long as the context; token ids from `first_id` on."""
    torch.manual_seed(seed)
    model = model_type(config)
    randomise(model)
    model.train()
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)

    expected, losses, scored = {}, 0.0, 0
    for i, length in enumerate([context, max(2, context // 2 - 1), max(2, context // 3)]):
        ids = torch.randint(first_id, config.vocab_size, (length,))
        labels = ids.clone()
        labels[: length // 3] = -100
        logits = model(ids[None]).logits[0]
        losses = losses + torch.nn.functional.cross_entropy(logits[:-1], labels[1:], reduction="sum", ignore_index=-100)
        scored += int((labels[1:] != -100).sum())
        expected |= {f"ids.{i}": ids, f"labels.{i}": labels, f"logits.{i}": logits.detach()}
    loss = losses / scored
    loss.backward()
    expected["loss"] = loss.detach()
    with safe_open(folder / "model.safetensors", "pt") as saved:
        keys = set(saved.keys())
    for name, parameter in model.named_parameters():
        key = name if name in keys else name.replace("lm_head", "embed_out")  # transformers renamed GPT-NeoX's head
        assert key in keys, f"{name} is not in the file"
        expected[f"grad.{key}"] = parameter.grad
    save_file({k: v.contiguous() for k, v in expected.items()}, folder / "expected.safetensors")


def make_all(family: str, model_type: type, config_type: type, configurations: dict, context: str,
             first_id: int = 0, **common) -> None:
    """One folder for each named configuration; `context` names its field of the context length, or is a number."""
    torch.set_num_threads(1)
    here = pathlib.Path(__file__).parent / family
    for seed, (name, options) in enumerate(configurations.items()):
        if len(sys.argv) > 1 and name not in sys.argv[1:]:
            continue
        config = config_type(**common, **options, attn_implementation="eager")
        length = context if isinstance(context, int) else getattr(config, context)
        make(here / name, model_type, config, seed, length, first_id)
