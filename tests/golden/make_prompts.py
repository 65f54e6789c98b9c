"""Writes prompts.json: prompts, rolling windows and token ids as lm-evaluation-harness makes them.

    python tests/golden/make_prompts.py [FOLDER OF THE REAL DATA]

Needs jinja2, tokenizers and lm-eval (0.4.13; `pip install --no-deps lm-eval`). Templates are read from lm-eval's own task files
where it has the task. The rows are made up here; of real data only digests are stored.
"""

import functools
import json
import pathlib
import sys

import jinja2
import lm_eval
import tokenizers
import yaml
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows

HERE = pathlib.Path(__file__).parent
TASKS = pathlib.Path(lm_eval.__file__).parent / "tasks"
ENVIRONMENT = jinja2.Environment(undefined=jinja2.StrictUndefined)


def render(template, row):
    return ENVIRONMENT.from_string(template).render(**row)


@functools.cache
def load(name):
    return yaml.safe_load((TASKS / name).read_text())


def sciq(row):
    task = load("sciq/sciq.yaml")
    choices = ENVIRONMENT.compile_expression(task["doc_to_choice"].strip("{}"))(**row)
    return {"prompt": render(task["doc_to_text"], row), "choices": choices, "answer": task["doc_to_target"]}


def choices(row):
    template = load("arc/arc_easy.yaml")["doc_to_text"]
    if row.get("context"):  # the library's own addition: the harness's ARC has no context
        template = "{{context}}\n" + template
    return {"prompt": render(template, row), "choices": row["choices"], "answer": row["answer"]}


def pairs(row):
    return {"prompt": render("Question: {{question}}\nAnswer:", row), "completion": " " + str(row["reply"])}


SCIQ_ROWS = [
    {"question": "What floats?", "support": "Cork floats.", "distractor1": "lead", "distractor2": "iron",
     "distractor3": "gold", "correct_answer": "cork"},
    {"question": "No support here?", "support": "", "distractor1": "a", "distractor2": "b", "distractor3": "c",
     "correct_answer": "d"},
    {"question": " spaces  stay ", "support": " \t\n\u00a0\u3000\u2028\u200aText \u00e9t\u00e9 \u2603 \U0001f600 ends with space ",
     "distractor1": " padded ", "distractor2": "\u00b5", "distractor3": "{{braces}}", "correct_answer": "\u6c34"},
    {"question": "Is \u200b white space?", "support": "\u200bzero width is none", "distractor1": "1", "distractor2": "2",
     "distractor3": "3", "correct_answer": "4"},
    {"question": "\"quoted\" \\ back", "support": "\x1c\x1d\x1e\x1f\x85Only white space before.", "distractor1": "x",
     "distractor2": "y", "distractor3": "z", "correct_answer": "w"},
    {"question": "Only white space?", "support": " \n\t ", "distractor1": "x", "distractor2": "y", "distractor3": "z",
     "correct_answer": "w"},
]
CHOICES_ROWS = [
    {"question": "Which is red?", "choices": ["sky", "rose", "grass"], "answer": 1},
    {"question": "Who?", "choices": ["Zo\u00eb", "\u30a2\u30f3"], "answer": 0, "context": "Zo\u00eb came.\n"},
    {"question": "Empty context?", "choices": ["yes", "no"], "answer": 1, "context": ""},
]
PAIRS_ROWS = [{"question": "Why?", "reply": "Because."}, {"question": "How many, {exactly}?", "reply": 12},
              {"question": "\u00bfQu\u00e9?", "reply": "nada \U0001f600"}]


def fnv1a(text, state):
    for byte in text.encode():
        state = (state ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return state


def digest(examples):
    """64-bit FNV-1a over each prompt and its choices, every text ended by a zero byte."""
    state = 0xCBF29CE484222325
    for example in examples:
        for text in [example["prompt"], *example["choices"]]:
            state = fnv1a(text + "\0", state)
    return f"{state:016x}"


def encoded_digest(samples):
    """64-bit FNV-1a over "id id ... id|number of tokens before the scored ones;" of each sample."""
    state = 0xCBF29CE484222325
    for seen, scored in samples:
        state = fnv1a(" ".join(map(str, seen + scored)) + f"|{len(seen)};", state)
    return f"{state:016x}"


class Harness:
    """What lm-eval's way of encoding a prompt and its continuation asks of a model."""

    backend = "causal"

    def __init__(self, folder):
        bpe = tokenizers.models.BPE.from_file(str(folder / "encoder.json"), str(folder / "vocab.bpe"))
        self.tokenizer = tokenizers.Tokenizer(bpe)
        self.tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)

    def tok_encode(self, text, **_):
        return self.tokenizer.encode(text).ids

    def questions(self, examples, max_length):
        for example in examples:
            for choice in example["choices"]:
                seen, scored = TemplateLM._encode_pair(self, example["prompt"], " " + choice)
                kept = (seen + scored)[-(max_length + 1) :]  # as HFLM._loglikelihood_tokens cuts
                yield kept[: -len(scored)], scored

    def training(self, examples, max_length, end=50256):
        for example in examples:
            scored = self.tok_encode(" " + example["choices"][example["answer"]]) + [end]
            kept = (self.tok_encode(example["prompt"]) + scored)[-(max_length + 1) :]
            yield kept[: -len(scored)], scored


def windows(length, max_length):
    made = get_rolling_token_windows(list(range(length)), prefix_token=-1, max_seq_len=max_length, context_len=1)
    return {"length": length, "max_length": max_length, "windows": [[list(seen), list(scored)] for seen, scored in made]}


def main():
    golden = {
        "sciq": [{"row": row, **sciq(row)} for row in SCIQ_ROWS],
        "choices": [{"row": row, **choices(row)} for row in CHOICES_ROWS],
        "pairs": [{"row": row, **pairs(row)} for row in PAIRS_ROWS],
        "windows": [windows(n, m) for n in (1, 2, 5, 10, 34) for m in (1, 2, 4, 5, 10, 33, 34, 50)],
    }
    if len(sys.argv) > 1:
        data = pathlib.Path(sys.argv[1])
        golden["digests"] = {}
        for name in ("train", "valid", "test"):
            rows = json.loads((data / f"sciq/{name}.json").read_text())
            golden["digests"][f"sciq/{name}.json"] = {"rows": len(rows), "fnv1a": digest(map(sciq, rows))}
        for name in ("arc/arc_easy_test.jsonl", "openbookqa/openbookqa_test.jsonl"):
            rows = [json.loads(line) for line in (data / name).read_text().rstrip("\n").split("\n")]
            golden["digests"][name] = {"rows": len(rows), "fnv1a": digest(map(choices, rows))}
        harness = Harness(data / "tokenizers/gpt2")
        rows = [sciq(row) for row in json.loads((data / "sciq/test.json").read_text())]
        golden["encoded"] = {
            str(n): {
                "training": encoded_digest(harness.training(rows, n)),
                "questions": encoded_digest(harness.questions(rows, n)),
            }
            for n in (1024, 64)
        }
    (HERE / "prompts.json").write_text(json.dumps(golden, indent=1) + "\n")


main()
