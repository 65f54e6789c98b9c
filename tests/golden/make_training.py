"""Makes the golden training runs with PyTorch and Hugging Face transformers: float32, one thread, eager attention.

    python tests/golden/make_training.py

The algorithm is offsite tuning's, written a second time in the plainest way: padded batches, autograd, torch.optim.AdamW,
torch.nn.utils.clip_grad_norm_, transformers' schedules. The folder training/ gets

    model/                 a random GPT-2 of six blocks, as `save_pretrained` writes it
    samples.json           samples of different lengths: `tokens`, and the first of them that is scored
    runs.json              for each run its options, the loss and the gradient's norm of every step
    expected.safetensors   RUN.STEP.NAME: every trained tensor after some of the steps

Made with torch 2.13.0 and transformers 5.23.0.
"""

import json
import pathlib
import shutil

import torch
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel, get_scheduler

BLOCKS, VOCABULARY, CONTEXT = 6, 97, 64
KEPT = [0, 1, 4, 5]  # bottom block 0, of the middle 1..4 an emulator of 2 (uniform drop: its ends), top block 5
TRAINED = [0, 5]
COMMON = dict(batch_size=3, learning_rate=1e-3, adam_beta1=0.9, adam_beta2=0.999, adam_epsilon=1e-8)
RUNS = {  # a schedule that warms up starts at rate 0, so its first step moves nothing and its second is kept
    "offsite": dict(COMMON, steps=50, keep=[1, 50], gradient_accumulation=1, warmup=0, weight_decay=0.01, full=False,
                    max_grad_norm=1.0),
    "accumulated": dict(COMMON, steps=50, keep=[2, 50], gradient_accumulation=2, warmup=5, weight_decay=0.1, full=False,
                        max_grad_norm=2.0),  # above which some gradients are, and some not
    "full": dict(COMMON, steps=20, keep=[1, 20], gradient_accumulation=1, warmup=0, weight_decay=0.01, full=True,
                 max_grad_norm=1.0),
}


def make_model(folder: pathlib.Path) -> None:
    torch.manual_seed(2)
    config = GPT2Config(n_embd=24, n_head=4, n_layer=BLOCKS, n_inner=60, vocab_size=VOCABULARY, n_positions=CONTEXT,
                        attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config)
    with torch.no_grad():  # biases far from 0 and norms far from 1, so that a decay of them would show
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.3)
            elif parameter.dim() == 1:
                parameter.normal_(1, 0.3)
            else:
                parameter.normal_(0, 0.2)
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)


def make_samples() -> list[dict]:
    generator = torch.Generator().manual_seed(3)
    samples = []
    for length in [9, 31, 4, 18, 50, 2, 23, 12, 64, 7, 16, 40, 27]:  # 13: the last batch of three has one
        tokens = torch.randint(0, VOCABULARY, (length,), generator=generator).tolist()
        samples.append(dict(tokens=tokens, scored_from=int(torch.randint(1, length, (1,), generator=generator))))
    return samples


def sum_of_losses(model: GPT2LMHeadModel, samples: list[dict]) -> torch.Tensor:
    """Cross-entropy in nats, summed over the scored tokens of a batch padded at the right."""
    longest = max(len(s["tokens"]) for s in samples)
    ids = torch.zeros(len(samples), longest, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, sample in enumerate(samples):
        tokens, first = torch.tensor(sample["tokens"]), sample["scored_from"]
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
        labels[row, first : len(tokens)] = tokens[first:]
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, VOCABULARY), labels[:, 1:].reshape(-1),
                                             reduction="sum", ignore_index=-100)


def train(folder: pathlib.Path, samples: list[dict], name: str, run: dict, expected: dict) -> tuple[list, list]:
    model = GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager").train()
    if run["full"]:
        numbers = list(range(BLOCKS))
    else:
        numbers = KEPT
        model.requires_grad_(False)
        model.transformer.h = torch.nn.ModuleList(model.transformer.h[i] for i in KEPT)
        for place, number in enumerate(KEPT):
            model.transformer.h[place].requires_grad_(number in TRAINED)
    trained = {}
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = key.split(".")
            if part[1] == "h":
                part[2] = str(numbers[int(part[2])])  # the full model's number
            trained[".".join(part)] = parameter

    decays = [p for key, p in trained.items() if p.dim() > 1 and ".h." in key]  # not the embeddings, nor the tied head
    others = [p for key, p in trained.items() if p.dim() == 1 or ".h." not in key]
    optimizer = torch.optim.AdamW([dict(params=decays, weight_decay=run["weight_decay"]),
                                   dict(params=others, weight_decay=0.0)], lr=run["learning_rate"],
                                  betas=(run["adam_beta1"], run["adam_beta2"]), eps=run["adam_epsilon"])
    scheduler = get_scheduler("linear", optimizer, num_warmup_steps=run["warmup"], num_training_steps=run["steps"])

    size, together = run["batch_size"], run["gradient_accumulation"]
    batches = [samples[i : i + size] for i in range(0, len(samples), size)]
    groups = [batches[i : i + together] for i in range(0, len(batches), together)]
    losses, norms = [], []
    for step in range(run["steps"]):
        group = groups[step % len(groups)]  # file order in every epoch
        scored = sum(len(s["tokens"]) - s["scored_from"] for batch in group for s in batch)
        optimizer.zero_grad()
        loss = 0.0
        for batch in group:
            part = sum_of_losses(model, batch) / scored
            part.backward()
            loss += part.item()
        norms.append(torch.nn.utils.clip_grad_norm_(trained.values(), run["max_grad_norm"]).item())
        losses.append(loss)
        optimizer.step()
        scheduler.step()
        if step + 1 in run["keep"]:
            expected |= {f"{name}.{step + 1}.{key}": p.detach().clone() for key, p in trained.items()}
    return losses, norms


def main() -> None:
    torch.set_num_threads(1)
    here = pathlib.Path(__file__).parent / "training"
    make_model(here / "model")
    samples = make_samples()
    expected, runs = {}, {}
    for name, run in RUNS.items():
        losses, norms = train(here / "model", samples, name, run, expected)
        runs[name] = dict(run, losses=losses, norms=norms)
    save_file(expected, here / "expected.safetensors")
    (here / "samples.json").write_text("[\n" + ",\n".join(json.dumps(s) for s in samples) + "\n]\n")
    (here / "runs.json").write_text(json.dumps(runs, indent=1) + "\n")


if __name__ == "__main__":
    main()
