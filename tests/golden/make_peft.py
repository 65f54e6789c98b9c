"""Makes the golden LoRA folders with PEFT, and checks those that this library wrote.

    python tests/golden/make_peft.py               writes the folder peft/
    python tests/golden/make_peft.py check FOLDER  loads FOLDER/lora, FOLDER/rslora and FOLDER/dora, which the test
                                                   peft_folder writes if OFFSITE_KEEP_PEFT names FOLDER

The model is that of training/. For each kind the folder peft/KIND gets the adapter as PEFT's `save_pretrained` writes it,
with factors that are not zero, and expected.safetensors: `logits` of the samples' scored rows in the order of packing, and
`grad.NAME`: the gradient of their mean cross-entropy for every factor, under the factor's name in PEFT's file.

Made with peft 0.21.2, torch 2.13.0 and transformers 5.23.0.
"""

import json
import pathlib
import shutil
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import GPT2LMHeadModel

HERE = pathlib.Path(__file__).parent
ALL = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
KINDS = {
    "lora": dict(r=4, lora_alpha=16, target_modules=ALL, layers_to_transform=[0, 5]),
    "rslora": dict(r=2, lora_alpha=3, target_modules=["c_attn"], use_rslora=True),
    "dora": dict(r=3, lora_alpha=6, target_modules=["c_attn", "c_proj"], layers_to_transform=[0, 5], use_dora=True),
}
SAMPLES = 5


def base():
    return GPT2LMHeadModel.from_pretrained(HERE / "training/model", attn_implementation="eager")


def scored(model):
    """The logits of all scored rows, and the mean cross-entropy."""
    rows, targets = [], []
    for sample in json.loads((HERE / "training/samples.json").read_text())[:SAMPLES]:
        tokens, first = sample["tokens"], sample["scored_from"]
        logits = model(torch.tensor([tokens])).logits[0]
        rows.append(logits[first - 1:len(tokens) - 1])
        targets += tokens[first:]
    rows = torch.cat(rows)
    return rows, torch.nn.functional.cross_entropy(rows, torch.tensor(targets))


def make():
    shutil.rmtree(HERE / "peft", ignore_errors=True)
    for seed, (kind, settings) in enumerate(KINDS.items()):
        torch.manual_seed(seed)
        model = get_peft_model(base(), LoraConfig(fan_in_fan_out=True, task_type="CAUSAL_LM", **settings))
        model.eval()
        factors = {name: p for name, p in model.named_parameters() if p.requires_grad}
        with torch.no_grad():
            for name, parameter in factors.items():
                parameter.add_(torch.randn_like(parameter) * (0.3 if "magnitude" in name else 0.1))
        logits, loss = scored(model)
        loss.backward()
        folder = HERE / "peft" / kind
        model.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)
        config = json.loads((folder / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = "model"
        config["target_modules"] = sorted(config["target_modules"])
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True))
        names = load_file(folder / "adapter_model.safetensors").keys()
        expected = {"logits": logits.detach().contiguous(), "loss": loss.detach().reshape(1)}
        for name, parameter in factors.items():
            short = name.replace(".default", "").replace("lora_magnitude_vector.weight", "lora_magnitude_vector")
            assert short in names, short
            expected["grad." + short] = parameter.grad.contiguous()
        assert len(expected) == len(names) + 2
        save_file(expected, folder / "expected.safetensors")


def check(folder: pathlib.Path):
    for kind in KINDS:
        model = PeftModel.from_pretrained(base(), folder / kind)
        model.eval()
        with torch.no_grad():
            logits, _ = scored(model)
            expected = load_file(HERE / "peft" / kind / "expected.safetensors")["logits"]
            error = ((logits - expected).norm() / expected.norm()).item()
        ours, theirs = (load_file(f / kind / "adapter_model.safetensors") for f in (folder, HERE / "peft"))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours), kind
        print(f"{kind}: PEFT reads {folder / kind}; logits differ by {error:.1e} of their norm")
        assert error < 1e-5


if len(sys.argv) == 3 and sys.argv[1] == "check":
    check(pathlib.Path(sys.argv[2]))
else:
    make()
