"""Adapter policies on the command line: the owner chooses and starts them, clients follow the offer."""
import json

from harness import made_once, main, make_model, offsite, questions, refuses, tensors, test, test_optimised

SPLIT = ("--bottom", 1, "--emulator", 2, "--top", 1)
TRAIN = ("--learning-rate", 1e-2, "--num-epochs", 2, "--batch-size", 4, "--dtype", "float32")
POLICIES = {
    "lora": ("--peft", "lora", "--rank", 2, "--alpha", 8, "--lora-dropout", 0.1),
    "dora": ("--peft", "lora", "--rank", 2, "--dora", "--rslora", "--targets", "c_attn,mlp.c_proj"),
    "everywhere": ("--peft", "lora paper", "--peft-emulator"),
    "bitfit": ("--peft", "bitfit paper"),
    "placed": ("--peft", "bottom: lora rank=4; top: whole_blocks"),
}


def update_of(folder, model, data, policy, training=TRAIN):
    """Offer and update of a client. All models of this file are the same."""
    def make(here):
        offsite("split", "--model", model, *SPLIT, *policy, "--out", here / "offer")
        offsite("train", "--offer", here / "offer", "--task", "choices", "--data", data, *training, "--out", here / "update")

    made_once(folder, (policy, training, data.read_text()), make)
    return folder / "update"


@test_optimised
def rounds(folder):
    """split, train, plug-in and evaluate work with every policy; only what it names has changed"""
    model, data = make_model(folder / "model"), questions(folder / "train.jsonl")
    zero = offsite("evaluate", "--model", model, "--task", "choices", "--data", data).json
    before = tensors(model / "model.safetensors")
    for name, policy in POLICIES.items():
        here = folder / name
        here.mkdir()
        update = update_of(here, model, data, policy)
        offsite("plug-in", "--model", model, "--update", update, "--out", here / "plugged")
        plugged = offsite("evaluate", "--model", here / "plugged", "--task", "choices", "--data", data).json
        assert plugged["loss"] < zero["loss"] - 0.05, (name, plugged, zero)
        tuned = offsite("evaluate", "--offer", here / "offer", "--update", update, "--task", "choices", "--data", data).json
        assert tuned["loss"] < zero["loss"], (name, tuned)
        after = tensors(here / "plugged/model.safetensors")
        assert before.keys() == after.keys()
        changed = {key for key in before if before[key] != after[key]}
        blocks = {key.split(".")[2] for key in changed}
        assert blocks == ({"0", "1", "4", "5"} if name == "everywhere" else {"0", "5"}), (name, changed)
        if name == "bitfit":
            assert all(".bias" in key or ".ln_" in key for key in changed), changed
        if name in ("lora", "everywhere"):
            assert all(key.endswith(".weight") and ".ln_" not in key for key in changed), changed
        if name == "dora":
            assert all("c_attn.weight" in key or "mlp.c_proj.weight" in key for key in changed), changed


@test
def untrained(folder):
    """untrained factors plugged in give the model back byte for byte"""
    model, data = make_model(folder / "model"), questions(folder / "train.jsonl", 4)
    update = update_of(folder, model, data, POLICIES["dora"], ("--learning-rate", 0, "--max-steps", 2, "--dtype", "float32"))
    offsite("plug-in", "--model", model, "--update", update, "--out", folder / "plugged")
    assert tensors(model / "model.safetensors") == tensors(folder / "plugged/model.safetensors")


@test
def peft_folder(folder):
    """--as peft writes the factors with the names and settings that PEFT knows"""
    model, data = make_model(folder / "model"), questions(folder / "train.jsonl")
    update = update_of(folder, model, data, POLICIES["lora"])
    offsite("plug-in", "--model", model, "--update", update, "--as", "peft", "--out", folder / "peft")
    config = json.loads((folder / "peft/adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"], config["lora_dropout"]) == ("LORA", 2, 8, 0.1)
    assert config["layers_to_transform"] == [0, 5] and config["fan_in_fan_out"] is True
    assert config["base_model_name_or_path"] == str(model)
    names = tensors(folder / "peft/adapter_model.safetensors").keys()
    assert len(names) == 2 * 4 * 2
    assert "base_model.model.transformer.h.5.mlp.c_proj.lora_B.weight" in names
    # Two clients: the factors are averaged.
    offsite("plug-in", "--model", model, "--update", update, "--update", update, "--as", "peft", "--out", folder / "peft2")
    assert tensors(folder / "peft/adapter_model.safetensors") == tensors(folder / "peft2/adapter_model.safetensors")


@test
def merged_mean(folder):
    """--aggregate merged is the mean of changes: for one client that of its factors, for two another"""
    model, data = make_model(folder / "model"), questions(folder / "train.jsonl")
    update = update_of(folder, model, data, POLICIES["lora"])
    offsite("train", "--offer", folder / "offer", "--task", "choices", "--data", data, *TRAIN, "--seed", 3, "--limit", 8,
            "--out", folder / "update2")
    updates = ("--update", update, "--update", folder / "update2")
    offsite("plug-in", "--model", model, *updates, "--aggregate", "merged", "--out", folder / "merged")
    offsite("plug-in", "--model", model, *updates, "--out", folder / "fedavg")
    merged, fedavg, before = (tensors(folder / name / "model.safetensors") for name in ("merged", "fedavg", "model"))
    assert merged != fedavg
    assert {k for k in before if merged[k] != before[k]} == {k for k in before if fedavg[k] != before[k]}
    refuses("plug-in", "--model", model, *updates, "--aggregate", "merged", "--as", "peft", "--out", folder / "no", status=2,
            says="--aggregate merged ends in weights, so there are no factors for --as peft")


@test
def folders_on_the_model(folder):
    """--peft-folder puts factors or networks on the model: evaluate, score and generate see what was trained"""
    model, data = make_model(folder / "model"), questions(folder / "train.jsonl")
    task = ("--task", "choices", "--data", data)
    (folder / "t.txt").write_text("The sign says red.\n")
    plain = offsite("score", "--model", model, "--text", folder / "t.txt").json["loss"]
    for name, policy in (("dora", POLICIES["dora"]), ("bottleneck", ("--peft", "bottleneck width=4 dropout=0.1"))):
        here = folder / name
        here.mkdir()
        update = update_of(here, model, data, policy)
        plug_in = ("plug-in", "--model", model, "--update", update)
        offsite(*plug_in, "--as", "peft", "--out", here / "modules")
        on_top = ("--model", model, "--peft-folder", here / "modules")
        loss = offsite("evaluate", *on_top, *task).json["loss"]
        assert loss < offsite("evaluate", "--model", model, *task).json["loss"] - 0.05
        assert offsite("score", *on_top, "--text", folder / "t.txt").json["loss"] != plain
        text = offsite("generate", *on_top, "--prompt", "The", "--max-new-tokens", 8).json["ids"]
        if name == "dora":
            offsite(*plug_in, "--out", here / "merged")
            assert abs(offsite("evaluate", "--model", here / "merged", *task).json["loss"] - loss) < 1e-4
            assert offsite("generate", "--model", here / "merged", "--prompt", "The", "--max-new-tokens", 8).json["ids"] == text
            # A model that is to be cut gets them merged.
            rows = offsite("compare", *on_top, *SPLIT, *task, "--eval-data", data, *TRAIN, "--skip-full").json["rows"]
            assert abs(rows[0]["loss"] - loss) < 1e-4, (rows, loss)
        else:
            refuses(*plug_in, "--out", here / "merged", status=2, says="cannot be merged into the weights: .* --as peft")
            refuses("compare", *on_top, *SPLIT, *task, "--eval-data", data, status=2, says="bottlenecks cannot be merged")
    refuses("evaluate", "--offer", folder / "dora/offer", "--peft-folder", folder / "dora/modules", *task, status=2,
            says="--peft-folder requires --model")
    refuses("evaluate", "--model", model, "--peft-folder", folder / "dora/merged", *task, status=2,
            says="adapter_config.json")


@test
def compare(folder):
    """compare gives the five rows with LoRA too, and with a bottleneck beside it, which no folder holds"""
    model, data = make_model(folder / "model"), questions(folder / "train.jsonl", 8)
    for policy in (POLICIES["lora"], ("--peft", "bottom: bottleneck width=4; top: lora rank=2")):
        rows = offsite("compare", "--model", model, *SPLIT, *policy, "--task", "choices", "--data", data, "--eval-data", data,
                       *TRAIN).json["rows"]
        assert len(rows) == 5 and rows[2]["loss"] < rows[1]["loss"]


@test_optimised
def mistakes(folder):
    """settings that do not fit give one sentence"""
    model, data = make_model(folder / "model"), questions(folder / "train.jsonl", 4)

    def split(says, *policy):
        refuses("split", "--model", model, *SPLIT, *policy, "--out", folder / "no", status=2, says=says)

    split("settings of LoRA were given, but --peft is whole_blocks", "--rank", 4)
    split("the adapter policy is 'magic', but there are", "--peft", "magic")
    split("LoRA's rank is 0", "--peft", "lora", "--rank", 0)
    split("--peft is 'bottom: bottleneck .*what is trained beside a bottleneck could not be written", "--peft",
          "bottom: bottleneck; top: lora")
    split("the target 'q_proj' names no linear layer", "--peft", "lora", "--targets", "q_proj")
    update = update_of(folder, model, data, POLICIES["bitfit"])
    refuses("plug-in", "--model", model, "--update", update, "--as", "peft", "--out", folder / "no", status=2,
            says="--as peft writes the modules of one LoRA or bottleneck policy, but the update's is 'bitfit norms'")


main()
