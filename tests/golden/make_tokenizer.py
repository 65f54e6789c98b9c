"""Trains a small byte-level BPE; writes it with texts and the ids that Hugging Face's tokenizers gives them.

    pip install tokenizers==0.23.3
    python tests/golden/make_tokenizer.py

tests/golden/tokenizer/ then holds tokenizer.json, the same as vocab.json and merges.txt, and cases.json:
variants, each a JSON merge patch (RFC 7396) of tokenizer.json with its own texts and ids.
"""

import json
import pathlib
import random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

FOLDER = pathlib.Path(__file__).resolve().parent / "tokenizer"
END = "<|endoftext|>"
SUBJECTS = ["the miller", "a small robot", "every teacher", "nobody", "our neighbour", "the 3rd engineer",
            "someone's sister"]
VERBS = ["paints", "doesn't repair", "we've counted", "they'll measure", "has forgotten", "I'm carrying",
         "you'd better open"]
OBJECTS = ["the bridge", "1234 apples", "an old clock", "the question", "größere Häuser", "книги и письма",
           "水と空気", "déjà vu"]
ENDS = [".", "!", "?", "...", ";\n", ".\n\n", " -- ", ":\t", ", and then "]
FRAGMENTS = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'", " ", "  ", "   ", "\n", "\t", "\r\n",
             "\u00a0", "\u3000", "\u2028", "\x85", "\x1c", "\x00", "1", "12", "½", "²", "Ⅷ", "٣", "é",
             "e\u0301", "中", "한", "🦙", "👩\u200d👩", "\ufeff",
             "!", "--", "the", " the", "_", "Qz", "�", END, "<a>", "<b>", "<w>", "<a><b>", "é!"]


def train():
    chance = random.Random(1)
    sentences = [" ".join(chance.choice(part) for part in (SUBJECTS, VERBS, OBJECTS)) + chance.choice(ENDS)
                 for _ in range(3200)]
    text = ["".join(sentences[i : i + 8]) for i in range(0, len(sentences), 8)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(text, trainers.BpeTrainer(
        vocab_size=500, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    return tokenizer


def patched(value, patch):
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    value = dict(value) if isinstance(value, dict) else {}
    for key, change in patch.items():
        if change is None:
            value.pop(key, None)
        else:
            value[key] = patched(value.get(key), change)
    return value


def texts(chance, count):
    """Mixtures of what the split pattern and the added tokens tell apart, and random code points."""
    made = ["", " ", "x", END, "   a", "'s'", "a" * 60, "ab" * 40, "the bridge" * 12]
    while len(made) < count:
        text = ""
        for _ in range(chance.randrange(1, 14)):
            kind = chance.random()
            if kind < 0.6:
                text += chance.choice(FRAGMENTS)
            elif kind < 0.7:
                low, high = chance.choice([(0x80, 0x3000), (0xE000, 0x32000)])
                text += chr(chance.randrange(low, high))
            else:
                text += chance.choice(SUBJECTS + VERBS + OBJECTS)[: chance.randrange(1, 16)]
        made.append(text)
    return made


def added(i, content, **flags):
    defaults = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    return {"id": i, "content": content, **defaults, **flags}


def main():
    FOLDER.mkdir(exist_ok=True)
    train().save(str(FOLDER / "tokenizer.json"), pretty=False)
    base = json.loads((FOLDER / "tokenizer.json").read_text())
    vocab, merges = base["model"]["vocab"], base["model"]["merges"]
    (FOLDER / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    (FOLDER / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))

    chance = random.Random(2)
    some = [" ".join(m) for m in merges[::2] if all(t in vocab for t in m)]
    shuffled = [" ".join(m) for m in chance.sample(merges, len(merges))]
    size = len(vocab)
    unused = {"Q": None, "z": None, "<unk>": vocab["Q"], "<z>": vocab["z"]}
    variants = {
        "plain": {},
        "prefix space": {"pre_tokenizer": {"add_prefix_space": True}},
        "no split": {"pre_tokenizer": {"use_regex": False}},
        "half the merges": {"model": {"merges": some}},
        "ignored merges": {"model": {"merges": some, "ignore_merges": True}},
        "shuffled merges": {"model": {"merges": shuffled}},
        "bytes left out": {"model": {"vocab": unused}},
        "unknown bytes": {"model": {"vocab": unused, "unk_token": "<unk>"}},
        "fused unknown bytes": {"model": {"vocab": unused, "unk_token": "<unk>", "fuse_unk": True}},
        "added tokens": {"pre_tokenizer": {"add_prefix_space": True}, "added_tokens": [
            added(0, END, special=True), added(size, "<a>", lstrip=True), added(size + 1, "<b>", rstrip=True),
            added(size + 2, "<w>", single_word=True), added(size + 3, "<a><b>"),
            added(size + 4, "é!", normalized=True), added(size + 5, "  ", normalized=True),
            added(vocab["the"], "the", single_word=True, lstrip=True, rstrip=True)]},
    }
    cases = []
    for name, patch in variants.items():
        tokenizer = Tokenizer.from_str(json.dumps(patched(base, patch)))
        chosen = texts(chance, 120 if name in ("plain", "added tokens") else 45)
        ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in chosen]
        cases.append({"name": name, "patch": patch, "cases": [list(pair) for pair in zip(chosen, ids)]})
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    (FOLDER / "cases.json").write_text("[\n" + lines + "\n]\n")


if __name__ == "__main__":
    main()
