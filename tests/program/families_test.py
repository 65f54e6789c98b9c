"""Every model family, and every adapter policy: each step a process of its own, and the five rows side by side."""
import os
import shutil

from harness import ROOT, SANITIZED, main, offsite, questions, random_model, test

FAMILIES = {
    "gpt2": {"n_layer": 4, "n_embd": 24, "n_head": 4, "vocab_size": 467, "n_positions": 64},
    "opt": {"num_hidden_layers": 4, "hidden_size": 24, "num_attention_heads": 4, "ffn_dim": 40, "vocab_size": 467,
            "max_position_embeddings": 64, "word_embed_proj_dim": 24},
    "bloom": {"n_layer": 4, "hidden_size": 24, "n_head": 4, "vocab_size": 467},
    "gpt_neox": {"num_hidden_layers": 4, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 40, "vocab_size": 467,
                 "max_position_embeddings": 64},
    # Two heads of queries share one of keys, and queries, keys and values have biases.
    "qwen2": {"num_hidden_layers": 4, "hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2,
              "intermediate_size": 40, "vocab_size": 467, "max_position_embeddings": 64},
}
# What each family gets beside whole blocks; in nightly runs every family gets all. A process takes half a second to start,
# and that models know no policy is tested without (tests/adapters/families_test.cpp).
POLICIES = {
    "gpt2": ("--peft", "bottom: lora rank=2; top: whole_blocks; emulator: bitfit"),
    "opt": ("--peft", "lora", "--rank", 2, "--alpha", 8),
    "bloom": ("--peft", "lora", "--rank", 2, "--dora", "--rslora"),
    "gpt_neox": ("--peft", "bitfit norms"),
    "qwen2": ("--peft", "bottleneck width=4"),
}
CUT = ("--bottom", 1, "--emulator", 1, "--top", 1)
TRAIN = ("--learning-rate", 1e-2, "--max-steps", 3, "--batch-size", 4, "--dtype", "float32")
NIGHTLY = os.environ.get("OFFSITE_NIGHTLY") == "1"
ROWS = ["full zero-shot", "emulator zero-shot", "emulator fine-tuned", "plug-in", "full fine-tuning"]


def family(folder, name):
    """A small model with a tokenizer; away from the start, where a policy's mistakes would hardly show."""
    model = random_model(folder / name, name, **FAMILIES[name], **{"init_std" if name == "opt" else "initializer_range": 0.1})
    shutil.copy(ROOT / "tests/golden/tokenizer/tokenizer.json", model)
    return model


def check_round(folder, model, data, policy):
    """split, train, plug-in and evaluate come to the numbers that compare gives in one process."""
    task = ("--task", "choices", "--data", data)
    offsite("split", "--model", model, *CUT, *policy, "--out", folder / "offer")
    offsite("train", "--offer", folder / "offer", *task, *TRAIN, "--out", folder / "update")
    as_folder = "bottleneck" in str(policy)
    offsite("plug-in", "--model", model, "--update", folder / "update", "--as", "peft" if as_folder else "merged",
            "--out", folder / "plugged")
    plugged = ("--model", model, "--peft-folder", folder / "plugged") if as_folder else ("--model", folder / "plugged")
    apart = offsite("evaluate", *plugged, *task).json
    five = offsite("compare", "--model", model, *CUT, *policy, *task, "--eval-data", data, *TRAIN,
                   "--full-learning-rate", 1e-2).json["rows"]
    assert [row["name"] for row in five] == ROWS
    rows = {row["name"]: row for row in five}
    assert abs(rows["plug-in"]["loss"] - apart["loss"]) < 1e-6, (rows, apart)
    assert rows["emulator fine-tuned"]["loss"] < rows["emulator zero-shot"]["loss"], rows
    assert rows["full fine-tuning"]["loss"] < rows["full zero-shot"]["loss"], rows
    assert rows["plug-in"]["loss"] != rows["full zero-shot"]["loss"], rows


for name in FAMILIES:
    def check_family(folder, name=name):
        model, data = family(folder, name), questions(folder / "q.jsonl", 8)
        policies = [POLICIES[name]] if SANITIZED else [(), *POLICIES.values()] if NIGHTLY else [(), POLICIES[name]]
        for number, policy in enumerate(policies):
            (folder / str(number)).mkdir()
            check_round(folder / str(number), model, data, policy)
    check_family.__doc__ = f"{name}: the five rows, and the same by processes of their own, also with {' '.join(map(str, POLICIES[name][1:]))}"
    test(check_family)


main()
