"""The small model and questions that come with the project: made by the programs beside them, and worth showing."""
import filecmp
import os
import subprocess
import sys

from harness import PROGRAM, ROOT, main, test, test_optimised

WORLD = ROOT / "examples/data/world"


@test
def made_by_the_programs(folder):
    """make_world.py writes the committed questions, tokenizer and configuration, byte for byte"""
    subprocess.run([sys.executable, str(ROOT / "examples/data/make_world.py"), "--out", str(folder)], check=True)
    names = ["config.json", "merges.txt", "test.jsonl", "tokenizer.json", "tokenizer_config.json", "train.jsonl", "vocab.json"]
    for name in names:
        assert filecmp.cmp(folder / name, WORLD / name, shallow=False), name
    assert sorted(p.name for p in WORLD.iterdir()) == sorted(names + ["model.safetensors"])
    asked = [set((WORLD / name).read_text().splitlines()) for name in ("train.jsonl", "test.jsonl")]
    assert not asked[0] & asked[1]


@test
def small(folder):
    """it takes at most 8 MB"""
    assert sum(p.stat().st_size for p in (ROOT / "examples/data").rglob("*") if p.is_file()) <= 8_000_000


@test_optimised
def quickstart(folder):
    """the quickstart runs to its end, and the five rows stand in the order that offsite tuning promises"""
    done = subprocess.run(["bash", str(ROOT / "examples/quickstart.sh")], capture_output=True, text=True, timeout=600,
                          env={**os.environ, "OFFSITE_PROGRAM": str(PROGRAM), "OFFSITE_RUN": str(folder / "run")})
    assert done.returncode == 0, done.stdout + done.stderr
    accuracy = {}
    for line in done.stdout.splitlines():
        for name in ("full zero-shot", "emulator zero-shot", "emulator fine-tuned", "plug-in", "full fine-tuning"):
            if line.startswith(name + "  "):
                accuracy[name] = float(line[len(name):].split()[0])
    # 720 questions, so one model's standard error is below 2 points; two models' answers to the same ones differ by less.
    chance = 25
    assert accuracy["emulator zero-shot"] > chance + 5, accuracy
    assert accuracy["full zero-shot"] > accuracy["emulator zero-shot"] + 10, accuracy
    assert accuracy["emulator fine-tuned"] > accuracy["full zero-shot"] + 8, accuracy
    assert accuracy["plug-in"] > accuracy["emulator fine-tuned"] + 1, accuracy
    assert accuracy["full fine-tuning"] > accuracy["emulator fine-tuned"] + 3, accuracy
    assert "verbatim share" in done.stdout and "offsite split" in done.stdout
    for name in ("offer", "update", "model"):
        assert (folder / "run" / name).is_dir()


main()
