"""The small commands, help, configuration files, and what goes to which stream."""
import json
import math

from harness import PROGRAM, main, make_model, need, offsite, questions, refuses, test, test_optimised, tree


@test_optimised
def help_texts(folder):
    """--help of the program and of every subcommand, and --version"""
    text = offsite("--help").out
    for name in ("split", "inspect", "train", "plug-in", "evaluate", "compare", "score", "generate", "tokenize",
                 "serve", "join", "simulate", "runs", "certificates"):
        assert name in text
        assert "--json" in offsite(name, "--help").out
    assert offsite("--version").out.strip()
    refuses("nonsense", status=2, says="--help")


@test
def tokenize(folder):
    """tokenize gives a line of ids for each line of text, and marks what a task scores"""
    model = make_model(folder / "model")
    (model / "model.safetensors").unlink()  # tokenize needs no weights
    (folder / "t.txt").write_text("Hello world\n\nlast line")
    lines = [json.loads(line) for line in offsite("tokenize", "--model", model, "--text", folder / "t.txt").out.splitlines()]
    assert len(lines) == 3 and lines[1] == {"ids": []} and lines[0]["ids"]
    data = questions(folder / "q.jsonl", 3)
    result = offsite("tokenize", "--model", model, "--task", "choices", "--data", data)
    for row in map(json.loads, result.out.splitlines()):
        assert len(row["ids"]) == len(row["scored"]) and row["scored"][0] == 0 and row["scored"][-1] == 1
    assert "longest" in result.err


@test
def score(folder):
    """score gives the log-probability of each token but the first, also of lines longer than the context"""
    model = make_model(folder / "model", context=16)
    (folder / "t.txt").write_text("One short line.\n\n" + "A line that is longer than the context of the model. " * 5 + "\n")
    result = offsite("score", "--model", model, "--text", folder / "t.txt")
    lines = [json.loads(line) for line in result.out.splitlines()]
    assert len(lines) == 3 and lines[1] == {"ids": [], "logprobs": []}
    for line in (lines[0], lines[2]):
        assert len(line["ids"]) == len(line["logprobs"]) and line["logprobs"][0] is None
        assert all(x < 0 for x in line["logprobs"][1:])
    assert len(lines[2]["ids"]) > 16


@test
def generate(folder):
    """generate prints greedy text, the same each time, and stops at the context's end"""
    model = make_model(folder / "model", context=24)
    first = offsite("generate", "--model", model, "--prompt", "Once upon", "--max-new-tokens", 8)
    assert len(first.json["ids"]) == 8 and first.json["text"] in first.out
    assert offsite("generate", "--model", model, "--prompt", "Once upon", "--max-new-tokens", 8).json["ids"] == first.json["ids"]
    long = offsite("generate", "--model", model, "--prompt", "Once upon", "--max-new-tokens", 500)
    assert "context of 24 tokens is full" in long.err or long.json["ids"][-1] == 466


@test
def configuration(folder):
    """--config reads TOML; the command line wins; unknown keys are refused"""
    model = make_model(folder / "model")
    data = questions(folder / "q.jsonl", 8)
    offsite("split", "--model", model, "--bottom", 1, "--emulator", 2, "--top", 1, "--out", folder / "offer")
    (folder / "c.toml").write_text(
        'seed = 5\n[train]\nlearning_rate = 0.001\nmax-steps = 3\nno-shuffle = true\n[split]\nbottom = 9\n')
    words = ("train", "--offer", folder / "offer", "--task", "choices", "--data", data, "--config", folder / "c.toml")
    result = offsite(*words, "--out", folder / "a").json
    assert result["steps"] == 3 and result["seed"] == 5
    assert offsite(*words, "--max-steps", 2, "--out", folder / "b").json["steps"] == 2
    (folder / "c.toml").write_text("learnig-rate = 1\n")
    refuses(*words, "--out", folder / "c", status=2, says="learnig-rate")
    refuses("inspect", model, "--config", folder / "none.toml", status=2, says="none.toml")


@test_optimised
def streams(folder):
    """results go to standard output, all else to standard error; --quiet leaves errors only"""
    model = make_model(folder / "model")
    data = questions(folder / "q.jsonl", 8)
    result = offsite("split", "--model", model, "--bottom", 1, "--emulator", 2, "--top", 1, "--out", folder / "offer", "--quiet")
    assert result.err == "" and "verbatim share" in result.out
    result = offsite("train", "--offer", folder / "offer", "--task", "choices", "--data", data, "--out", folder / "u", "--quiet")
    assert result.err == "" and "steps" in result.out


@test
def evaluation_while_training(folder):
    """training evaluates, keeps the best, stops early and logs JSON lines"""
    model = make_model(folder / "model")
    data, held_out = questions(folder / "q.jsonl", 16), questions(folder / "h.jsonl", 12, seed=3)
    offsite("split", "--model", model, "--bottom", 1, "--emulator", 2, "--top", 1, "--out", folder / "offer")
    result = offsite("train", "--offer", folder / "offer", "--task", "choices", "--data", data, "--eval-data", held_out,
                     "--learning-rate", 5e-2, "--num-epochs", 20, "--early-stopping-patience", 2, "--keep-best",
                     "--log", folder / "log.jsonl", "--out", folder / "u")
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    evaluations = [line for line in lines if "eval_loss" in line]
    assert evaluations and "held-out loss" in result.err
    best = min(evaluations, key=lambda line: line["eval_loss"])
    assert result.json["best_step"] == best["step"]
    after = offsite("evaluate", "--offer", folder / "offer", "--update", folder / "u", "--task", "choices", "--data", held_out).json
    assert math.isclose(after["loss"], best["eval_loss"], rel_tol=0.05)


@test
def predictions(folder):
    """--predictions holds a line for each question, from which the accuracies follow"""
    model = make_model(folder / "model")
    data = questions(folder / "q.jsonl", 12)
    result = offsite("evaluate", "--model", model, "--task", "choices", "--data", data, "--predictions", folder / "p.jsonl").json
    rows = [json.loads(line) for line in (folder / "p.jsonl").read_text().splitlines()]
    assert [row["row"] for row in rows] == list(range(12))
    assert sum(row["predicted"] == row["answer"] for row in rows) / 12 == result["accuracy"]
    for row in rows:
        assert row["predicted"] == max(range(4), key=lambda i: row["log_likelihoods"][i])


main()
