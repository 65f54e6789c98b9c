"""Each mistake gives one clear sentence, the right exit status, and changes nothing on disk."""
import json
import os
import resource
import shutil
import signal
import subprocess
import time

from harness import PROGRAM, ROOT, SANITIZED, Skip, made_once, main, make_model, offsite, questions, refuses, tensors, test, test_optimised, tree, write_rows, write_tensors

SPLIT = ("--bottom", 1, "--emulator", 2, "--top", 1)


def setup(folder):
    def make(here):
        model = make_model(here / "model")
        questions(here / "q.jsonl", 8)
        offsite("split", "--model", model, *SPLIT, "--out", here / "offer")

    made_once(folder, "setup", make)
    return folder / "model", folder / "q.jsonl"


def train(folder, data, *more):
    return ("train", "--offer", folder / "offer", "--task", "choices", "--data", data, "--max-steps", 2, "--out", folder / "out", *more)


@test_optimised
def missing_paths(folder):
    """a missing file, folder or argument ends with status 2"""
    model, data = setup(folder)
    before = tree(folder)
    refuses("split", "--model", folder / "nowhere", *SPLIT, "--out", folder / "out", status=2, says=r"nowhere is no folder")
    refuses(*train(folder, folder / "none.jsonl"), status=2, says=r"the data file .*none.jsonl does not exist")
    refuses("plug-in", "--model", model, "--update", folder / "none", "--out", folder / "out", status=2, says="none is no folder")
    refuses("split", "--model", model, status=2, says="--out is required")
    refuses("train", "--nonsense", status=2, says="see offsite train --help")
    refuses("evaluate", "--task", "choices", "--data", data, status=2, says="--model or --offer is needed")
    assert tree(folder) == before


@test_optimised
def wrong_names(folder):
    """wrong names of task, schedule, metric, drop rule, aggregation, dtype and size list the known ones"""
    model, data = setup(folder)
    before = tree(folder)
    refuses("evaluate", "--model", model, "--task", "sciqq", "--data", data, status=2, says=r"no task 'sciqq'; the tasks are sciq, choices")
    refuses(*train(folder, data, "--lr-scheduler", "cosin"), status=2, says='no schedule is called "cosin"')
    refuses(*train(folder, data, "--metric", "f1"), status=2, says="--metric is f1, but there are loss")
    refuses(*train(folder, data, "--dropout", "much"), status=2, says="--dropout is much")
    refuses(*train(folder, data, "--dtype", "float16"), status=2, says="float16, which the CPU does not compute in")
    refuses(*train(folder, data, "--device", "cuda"), status=2, says="--device is cuda")
    refuses(*train(folder, data, "--keep-best"), status=2, says="need --eval-data")
    for size in ("3XB", "-1", "2 cups", "1e3", "nan", "GB", "9EiB"):
        refuses(*train(folder, data, f"--prefix-cache={size}"), status=2,
                says=f"^error: --prefix-cache is {size}, but it must be a number of bytes from 0 to 9.2e18, alone or with one of kB, MB, GB")
    refuses("split", "--model", model, *SPLIT, "--drop", "random", "--out", folder / "out", status=2, says="no drop rule 'random'")
    assert tree(folder) == before


@test_optimised
def impossible_splits(folder):
    """an emulator larger than the middle, as in FATE's tutorial (18 of a model of 12), says what is left"""
    model = make_model(folder / "model", layers=12)
    cut = ("split", "--model", model, "--out", folder / "out")
    refuses(*cut, "--bottom", 1, "--emulator", 18, "--top", 1, status=2,
            says="emulator_blocks is 18, but 12 blocks minus 1 bottom and 1 top leave 10")
    refuses(*cut, "--bottom", 7, "--emulator", 1, "--top", 6, status=2, says="bottom_blocks is 7 and top_blocks is 6, but the model has 12")
    refuses(*cut, "--keep", "0,3", "--bottom", 1, "--top", 1, status=2, says=r"--keep names block 0, but the middle's blocks are 1-10")
    refuses(*cut, "--adapter-blocks", "1,x", status=2, says="--adapter-blocks is")
    refuses(*cut, "--max-verbatim", 0.2, "--emulator", 4, status=2, says=r"--max-verbatim is 0.2")
    assert not (folder / "out").exists()


@test
def broken_checkpoints(folder):
    """a checkpoint with a missing, extra or misshaped tensor, or cut short, is named with its tensor"""
    model = make_model(folder / "model")
    good = tensors(model / "model.safetensors")
    path, name = model / "model.safetensors", "transformer.h.2.mlp.c_fc.weight"
    cut = ("split", "--model", model, *SPLIT, "--out", folder / "out")

    write_tensors(path, {k: v for k, v in good.items() if k != name})
    refuses(*cut, status=1, says=f"lacks .*{name}|{name}.*(missing|lack)")
    write_tensors(path, {**good, "transformer.h.9.extra": ("F32", [1], b"\0" * 4)})
    refuses(*cut, status=1, says="transformer.h.9.extra")
    dtype, shape, data = good[name]
    write_tensors(path, {**good, name: (dtype, [shape[0] // 2, shape[1]], data[:len(data) // 2])})
    refuses(*cut, status=1, says=rf"{name}.*\[16, 128\].*\[32, 128\]|{name}.*\[32, 128\].*\[16, 128\]")
    write_tensors(path, good)
    raw = path.read_bytes()
    path.write_bytes(raw[:-10])
    refuses(*cut, status=1, says="model.safetensors")
    path.write_bytes(b"")
    refuses(*cut, status=1, says="model.safetensors")
    assert not (folder / "out").exists()


@test_optimised
def pickle_only(folder):
    """a folder with only pickle files is refused with the command that converts it"""
    model = make_model(folder / "model")
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    refuses("split", "--model", model, *SPLIT, "--out", folder / "out", status=2, says="convert_checkpoint.py")


@test_optimised
def converted(folder):
    """convert_checkpoint.py makes the same weights of a pickle file, and refuses one that is more than tensors"""
    python = next((p for p in (str(ROOT / ".venv/bin/python"), "python3")
                   if shutil.which(p) and subprocess.run([p, "-c", "import torch"], capture_output=True).returncode == 0), None)
    if python is None:
        raise Skip("needs a Python that has torch")
    model = make_model(folder / "model")
    before = tensors(model / "model.safetensors")
    script = f"""
import sys, torch
sys.path.insert(0, {str(ROOT / "tests/program")!r})
from harness import tensors
state = {{name: torch.frombuffer(bytearray(data), dtype=torch.float32).reshape(shape)
         for name, (dtype, shape, data) in tensors({str(model / "model.safetensors")!r}).items()}}
torch.save(state, {str(model / "pytorch_model.bin")!r})
"""
    subprocess.run([python, "-c", script], check=True)
    (model / "model.safetensors").unlink()
    convert = [python, str(ROOT / "examples/convert_checkpoint.py"), str(model)]
    subprocess.run(convert, check=True, capture_output=True)
    assert tensors(model / "model.safetensors") == before
    offsite("split", "--model", model, *SPLIT, "--out", folder / "offer")

    (model / "model.safetensors").unlink()
    evil = "import torch, os; torch.save({'a': os.system}, %r)" % str(model / "pytorch_model.bin")
    subprocess.run([python, "-c", evil], check=True)
    refused = subprocess.run(convert, capture_output=True, text=True)
    assert refused.returncode != 0 and not (model / "model.safetensors").exists(), refused


@test_optimised
def other_tokenizer(folder):
    """a tokenizer that does not fit the model is refused with both sizes"""
    model = make_model(folder / "model", vocabulary=300)
    data = questions(folder / "q.jsonl", 4)
    refuses("evaluate", "--model", model, "--task", "choices", "--data", data, status=2,
            says="has 467 tokens, but the model's vocabulary is 300")


@test
def other_split(folder):
    """an update made for another split or another model is refused, with the field that differs"""
    model, data = setup(folder)
    offsite(*train(folder, data))
    other = make_model(folder / "other", seed=9)
    refuses("plug-in", "--model", other, "--update", folder / "out", "--out", folder / "plugged", status=1, says="was not made for the model")
    offsite("split", "--model", model, "--bottom", 2, "--emulator", 2, "--top", 1, "--out", folder / "offer2")
    refuses("evaluate", "--offer", folder / "offer2", "--update", folder / "out", "--task", "choices", "--data", data, status=1,
            says="was made for another split")
    assert not (folder / "plugged").exists()


@test
def tampered(folder):
    """one changed byte in an offer or an update, or a NaN in an update, is found"""
    model, data = setup(folder)
    offsite(*train(folder, data))
    offer = folder / "offer/model.safetensors"
    raw = bytearray(offer.read_bytes())
    raw[-5] ^= 1
    offer.write_bytes(raw)
    refuses(*train(folder, data, "--force"), status=1, says="is not what split.json describes")
    update = folder / "out/update.safetensors"
    content = tensors(update)
    name = sorted(content)[0]
    dtype, shape, data_bytes = content[name]
    write_tensors(update, {**content, name: (dtype, shape, b"\x00\x00\xc0\x7f" + data_bytes[4:])})
    refuses("plug-in", "--model", model, "--update", folder / "out", "--out", folder / "plugged", status=1, says="not finite")
    (folder / "out/update.json").write_text('{"samples": 1}')
    refuses("plug-in", "--model", model, "--update", folder / "out", "--out", folder / "plugged", status=1, says="update.json")
    assert not (folder / "plugged").exists()


@test
def bad_data(folder):
    """an empty data file and a bad row are named with line and field"""
    model, _ = setup(folder)
    before = tree(folder / "offer")
    empty = folder / "empty.jsonl"
    empty.write_text("")
    refuses(*train(folder, empty), status=1, says="empty.jsonl.*empty|empty.*empty.jsonl")
    rows = [{"question": "a", "choices": ["b", "c"], "answer": 0}, {"question": "a", "choices": ["b", "c"]}]
    refuses(*train(folder, write_rows(folder / "b.jsonl", rows)), status=1, says=r"line 2.*answer")
    rows[1]["answer"] = 2
    refuses(*train(folder, write_rows(folder / "b.jsonl", rows)), status=1, says=r"line 2.*answer")
    (folder / "b.jsonl").write_text('{"question": ')
    refuses(*train(folder, folder / "b.jsonl"), status=1, says="line 1")
    assert not (folder / "out").exists() and tree(folder / "offer") == before


@test_optimised
def existing_out(folder):
    """an --out that holds something is refused, and stays as it is, unless --force is given"""
    model, data = setup(folder)
    (folder / "out").mkdir()
    (folder / "out/mine.txt").write_text("mine")
    refuses(*train(folder, data), status=2, says="not empty")
    refuses("split", "--model", model, *SPLIT, "--out", folder / "out", status=2, says="not empty")
    refuses(*train(folder, data, "--resume", "--force"), status=2, says="excludes")
    assert tree(folder / "out") == {"mine.txt": b"mine"}
    offsite(*train(folder, data, "--force"))
    assert "update.safetensors" in tree(folder / "out") and "mine.txt" not in tree(folder / "out")


@test_optimised
def dry_run(folder):
    """--dry-run checks everything and writes nothing"""
    model, data = setup(folder)
    before = tree(folder)
    offsite(*train(folder, data, "--dry-run"))
    offsite("split", "--model", model, *SPLIT, "--out", folder / "x", "--dry-run")
    refuses(*train(folder, folder / "none", "--dry-run"), status=2, says="does not exist")
    assert tree(folder) == before


@test
def full_disk(folder):
    """a disk that is full fails with status 1 and leaves nothing half-written"""
    model, data = setup(folder)

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    for words in (("split", "--model", model, *SPLIT, "--out", folder / "offer3"),
                  ("plug-in", "--model", model, "--update", folder / "u", "--out", folder / "p")):
        if words[0] == "plug-in":
            offsite("train", "--offer", folder / "offer", "--task", "choices", "--data", data, "--max-steps", 1, "--out", folder / "u")
        before = tree(folder)
        result = offsite(*words, status=1, preexec=limit)
        assert "cannot write" in result.err and "File too large" in result.err, result.err
        assert tree(folder) == before


@test
def interrupted(folder):
    """an interrupted run leaves a checkpoint; resumed it ends with the same bits as one that was not"""
    model, data = setup(folder)
    long = ("--max-steps", 60 if SANITIZED else 400, "--dtype", "float32", "--learning-rate", 1e-3)
    words = ("train", "--offer", folder / "offer", "--task", "choices", "--data", data, *long)
    offsite(*words, "--out", folder / "whole", "--save-steps", 1000)
    running = subprocess.Popen([PROGRAM, *map(str, words), "--out", folder / "cut", "--save-steps", "3"], stderr=subprocess.PIPE, text=True)
    deadline = time.time() + 60
    while not list((folder / "cut").glob("checkpoints/step-*")) and time.time() < deadline:
        time.sleep(0.005)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 1 and "--resume" in err, (running.returncode, err)
    assert not (folder / "cut/update.safetensors").exists()
    refuses(*words, "--out", folder / "cut", status=2, says="not empty")
    offsite(*words, "--out", folder / "cut", "--save-steps", 1000, "--resume")
    assert tensors(folder / "cut/update.safetensors") == tensors(folder / "whole/update.safetensors")


main()
