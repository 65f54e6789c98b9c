"""Writes texts and ids of tokenizers shaped like those of Llama, Qwen, GPT-NeoX, BLOOM and others; compares at length.

    pip install tokenizers==0.23.3 sentencepiece
    python tests/golden/make_tokenizer_shapes.py                          writes tests/golden/tokenizer/shapes.json
    python tests/golden/make_tokenizer_shapes.py --compare 1000000 DATA   compares as many random texts per shape

A shape is a JSON merge patch (RFC 7396) of a base: the byte-level tokenizer that make_tokenizer.py wrote, or
character.json, which merges characters. The comparison also takes the vocabularies of DATA (tokenizers/gpt_neox and
tokenizers/llama), compiles encode_texts.cpp and wants the same ids and the same decoded text as Hugging Face's.
"""

import argparse
import itertools
import json
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import time

from make_tokenizer import ENDS, FOLDER, FRAGMENTS, OBJECTS, SUBJECTS, VERBS, added, patched
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BLOOM = " ?[^(\\s|[.,!?…。，、।۔،])]+"
MORE = FRAGMENTS + [
    "\n\n", "\r", " \n", "\n ", "\t\n  ", "'ſ", "'LL", "'Ve", "'rE", "'D", "12345", "0", "٣٤", "(", ")", "|", "[", ",",
    "…", "。", "，", "、", "।", "۔", "،", "[a]", "{}", "#include <a>", "▁", "▁▁", " ▁", "<s>", "</s>", "<unk>", "<0x0A>",
    "e\u0301\u0323", "\u0323\u0301", "각", "\u1100\u1161\u11a8", "\u1100\u1161", "\uac00\u11a8", "\u0958", "\uf900",
    "\u212b", "\u0344", "\u1e9b\u0323", "\u09c7\u09be", "\U0001d15e", "\u00c5\u0327", "\u0f73", "\u3099", "か\u3099", "𝒳"]


def split(pattern, behavior="Isolated", invert=False):
    kind = "String" if len(pattern) == 1 else "Regex"
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def byte_level(regex=False, space=False):
    return {"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": True, "use_regex": regex}


def sequence(key, *steps):
    return {"type": "Sequence", key: list(steps)}


def metaspace(scheme, does_split):
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": does_split}


def replace(this, by):
    return {"type": "Replace", "pattern": {"String": this}, "content": by}


NFC, FUSE, FALLBACK = {"type": "NFC"}, {"type": "Fuse"}, {"type": "ByteFallback"}
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
PREPEND = {"type": "Prepend", "prepend": "▁"}


def byte_shapes(vocab):
    size = len(vocab)

    def steps(*all_steps):
        return {"pre_tokenizer": sequence("pretokenizers", *all_steps)}

    spaces = vocab.get("  ", size)
    size += spaces == size
    tokens = {"added_tokens": sorted([
        added(spaces, "  ", normalized=True), added(size, "<s>", special=True),
        added(size + 1, "é!", normalized=True), added(size + 2, "<a>", lstrip=True)], key=lambda t: t["id"])}
    return {
        "llama3": {"model": {"ignore_merges": True}, **steps(split(GPT4 % r"\p{N}{1,3}"), byte_level())},
        "qwen2": {"normalizer": NFC, **tokens, **steps(split(GPT4 % r"\p{N}"), byte_level())},
        "gpt_neox": {"normalizer": NFC, **tokens, "pre_tokenizer": byte_level(True)},
        "bloom": {"normalizer": None, **steps(split(BLOOM), byte_level())},
        "starcoder": {"normalizer": None, **steps({"type": "Digits", "individual_digits": True}, byte_level(True))},
        "digit runs": {**steps({"type": "Digits", "individual_digits": False}, byte_level(True, True))},
        "numbers removed": {**steps(split(r"\p{N}+", "Removed"), byte_level(True))},
        "only numbers": {**steps(split(r"\p{N}", "Removed", True), byte_level())},
        "with previous": {**steps(split("e", "MergedWithPrevious"), byte_level())},
        "with next": {**steps(split(r"\p{N}", "MergedWithNext"), byte_level(True))},
        "contiguous": {**steps(split(r"\p{N}", "Contiguous"), split("a", "Contiguous", True), byte_level())},
    }


def character_shapes(vocab):
    size = len(vocab)
    legacy = {"normalizer": sequence("normalizers", PREPEND, replace(" ", "▁")), "pre_tokenizer": None}
    decoder = {"decoder": sequence("decoders", replace("▁", " "), FALLBACK, FUSE, STRIP)}
    plain = {"decoder": sequence("decoders", replace("▁", " "), FALLBACK, FUSE)}
    specials = [added(0, "<unk>", special=True), added(1, "<s>", special=True), added(2, "</s>", special=True)]
    return {
        "llama2": {**legacy, **decoder, "added_tokens": specials},
        "llama2, normalized": {**legacy, **decoder,
                               "added_tokens": specials + [added(size, "miller", normalized=True),
                                                           added(size + 1, "<w>", single_word=True)]},
        "llama2, first": {"normalizer": None, "pre_tokenizer": metaspace("first", False), **decoder,
                          "added_tokens": specials},
        "metaspace": {"normalizer": None, "pre_tokenizer": metaspace("always", True),
                      "decoder": metaspace("always", True), "added_tokens": specials[:1],
                      "model": {"byte_fallback": False}},
        "unknown, not fused": {"normalizer": None, "pre_tokenizer": metaspace("never", True),
                               "decoder": metaspace("never", True), "added_tokens": [],
                               "model": {"byte_fallback": False, "fuse_unk": False}},
        "some bytes": {**legacy, **decoder, "model": {"vocab": {"<0xE4>": None, "<0xF0>": None}}},
        "gemma": {"normalizer": replace(" ", "▁"), "pre_tokenizer": split(" ", "MergedWithPrevious"), **plain,
                  "added_tokens": specials + [added(size, "\n\n\n"), added(vocab.get("▁<", size + 1), "▁<")]},
        "NFC": {"normalizer": sequence("normalizers", NFC, replace(" ", "▁")), "pre_tokenizer": None, **plain,
                "added_tokens": []},
    }


def sentences(chance):
    parts = [" ".join(chance.choice(part) for part in (SUBJECTS, VERBS, OBJECTS)) + chance.choice(ENDS)
             for _ in range(1600)]
    return ["".join(parts[i : i + 8]) for i in range(0, len(parts), 8)]


def train_by_character():
    """A base like Llama 2's, small: bytes are tokens of the vocabulary, but not added tokens."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    specials = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer.train_from_iterator(sentences(random.Random(3)), trainers.BpeTrainer(
        vocab_size=620, special_tokens=specials, show_progress=False))
    return json.loads(tokenizer.to_str())


def llama(path):
    """The base that Hugging Face's converter makes of a SentencePiece model."""
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(str(path))
    scores = {model.id_to_piece(i): model.get_score(i) for i in range(model.get_piece_size())}
    vocab = {piece: i for i, piece in enumerate(scores)}
    merges = []
    for whole, score in scores.items():
        pairs = [(whole[:i], whole[i:]) for i in range(1, len(whole))]
        pairs = [pair for pair in pairs if pair[0] in vocab and pair[1] in vocab]
        merges += [(*pair, score) for pair in sorted(pairs, key=lambda p: (vocab[p[0]], vocab[p[1]]))]
    merges.sort(key=lambda m: (m[2], len(m[0]), len(m[1])), reverse=True)
    return {"version": "1.0", "truncation": None, "padding": None, "post_processor": None, "added_tokens": [],
            "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
                      "vocab": vocab, "merges": [[a, b] for a, b, _ in merges]}}


def shaped(base, patch):
    """The base after the patch; where that took tokens away, the ids close up."""
    value = patched(base, patch)
    vocab = value["model"]["vocab"]
    if len(vocab) != len(base["model"]["vocab"]):
        value["model"]["vocab"] = {token: i for i, token in enumerate(sorted(vocab, key=vocab.get))}
    return value


def texts(chance, count):
    yield from ["", " ", "x", "   a", "\n", "▁", "a" * 60, "the bridge" * 12, "\u0301", "1234567"]
    for _ in range(count - 10):
        text = ""
        for _ in range(chance.randrange(1, 12)):
            kind = chance.random()
            if kind < 0.6:
                text += chance.choice(MORE)
            elif kind < 0.7:
                low, high = chance.choice([(0x80, 0x3000), (0x300, 0x370), (0xE000, 0x32000), (0x1100, 0x1200)])
                text += chr(chance.randrange(low, high))
            else:
                text += chance.choice(SUBJECTS + VERBS + OBJECTS)[: chance.randrange(1, 16)]
        yield text


def write_golden():
    base = json.loads((FOLDER / "tokenizer.json").read_text())
    character = train_by_character()
    character["added_tokens"] = []
    (FOLDER / "character.json").write_text(json.dumps(character, ensure_ascii=False, separators=(",", ":")))
    shapes = []
    for name, value, patches in (("tokenizer.json", base, byte_shapes), ("character.json", character, character_shapes)):
        for title, patch in patches(value["model"]["vocab"]).items():
            # The vocabulary a patch takes tokens from is written out: closing up ids is no merge patch.
            full = shaped(value, patch)
            if "vocab" in patch.get("model", {}):
                patch = {**patch, "model": {**patch["model"], "vocab": patch["model"]["vocab"] | full["model"]["vocab"]}}
            tokenizer = Tokenizer.from_str(json.dumps(full))
            chosen = list(texts(random.Random(title), 110))
            encoded = [tokenizer.encode(text, add_special_tokens=False).ids for text in chosen]
            decoded = [tokenizer.decode(ids, skip_special_tokens=False) for ids in encoded]
            cases = [[t, i, None if d == t or "\ufffd" in d else d] for t, i, d in zip(chosen, encoded, decoded)]
            shapes.append({"name": title, "base": name, "patch": patch, "cases": cases})
    lines = ",\n".join(json.dumps(shape, separators=(",", ":"), ensure_ascii=False) for shape in shapes)
    (FOLDER / "shapes.json").write_text("[\n" + lines + "\n]\n")


def compare(name, value, chosen, program):
    """Compares the ids and decoded texts of all `chosen`; says how many differ, and the first of them."""
    count, wrong = 0, 0
    chosen = iter(chosen)
    while part := list(itertools.islice(chosen, 100000)):  # not all in memory
        wrong += compare_part(name, value, part, program, count + len(part))
        count += len(part)
    print(f"{name}: {wrong} of {count} texts differ", flush=True)
    return wrong


def compare_part(name, value, chosen, program, done):
    text = json.dumps(value)
    tokenizer = Tokenizer.from_str(text)
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place)
        (folder / "tokenizer.json").write_text(text)
        with open(folder / "texts", "wb") as out:
            for one in chosen:
                raw = one.encode()
                out.write(struct.pack("<I", len(raw)) + raw)
        said = subprocess.run([program, place, folder / "texts", folder / "ids"], check=True, stdout=subprocess.PIPE)
        data = (folder / "ids").read_bytes()
    at, wrong = 0, 0
    size = sum(len(one.encode()) for one in chosen)
    start = time.monotonic()
    expected = [tokenizer.encode(one, add_special_tokens=False).ids for one in chosen]
    took = time.monotonic() - start
    for one, ids in zip(chosen, expected):
        count = struct.unpack_from("<I", data, at)[0]
        ours = list(struct.unpack_from(f"<{count}i", data, at + 4))
        at += 4 + 4 * count
        count = struct.unpack_from("<I", data, at)[0]
        raw = data[at + 4 : at + 4 + count]
        at += 4 + count
        decoded = tokenizer.decode(ids, skip_special_tokens=False)
        if ours != ids or (decoded != raw.decode(errors="replace") and "\ufffd" not in decoded):
            wrong += 1
            if wrong <= 3:
                print(f"{name}: {one!r}\n  theirs {ids} {decoded!r}\n  ours   {ours} {raw!r}")
    print(f"{name}: {done} texts done; ours {said.stdout.decode().strip()}, "
          f"theirs {size * 1e-6 / took:.1f} MB/s", flush=True)
    return wrong


def compare_all(count, data, only):
    root = pathlib.Path(__file__).resolve().parents[2]
    program = pathlib.Path(tempfile.gettempdir()) / "offsite_encode_texts"
    subprocess.run(["g++", "-std=c++20", "-O2", "-DFMT_HEADER_ONLY", f"-I{root}/include",
                    root / "tests/golden/encode_texts.cpp", "-o", program], check=True)
    bases = [("small", json.loads((FOLDER / "tokenizer.json").read_text()), byte_shapes),
             ("small", json.loads((FOLDER / "character.json").read_text()), character_shapes)]
    if data is not None:
        neox = json.loads((data / "tokenizers/gpt_neox/allenai_gpt-neox-olmo-dolma-v1_5.json").read_text())
        bases += [("OLMo's", neox, byte_shapes), ("Llama's", llama(data / "tokenizers/llama/tokenizer.model"),
                                                  character_shapes)]
    wrong = 0
    for title, base, patches in bases:
        if title == "OLMo's" and only in "OLMo as published":
            wrong += compare("OLMo as published", base, texts(random.Random(5), count), program)
        for name, patch in patches(base["model"]["vocab"]).items():
            if only in f"{title} {name}":
                chosen = texts(random.Random(f"{title} {name}"), count)
                wrong += compare(f"{title} vocabulary, {name}", shaped(base, patch), chosen, program)
    return wrong


if __name__ == "__main__":
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--compare", type=int, metavar="TEXTS")
    arguments.add_argument("--only", default="", help="part of the names of the shapes to compare")
    arguments.add_argument("data", type=pathlib.Path, nargs="?")
    given = arguments.parse_args()
    sys.exit(compare_all(given.compare, given.data, given.only) != 0 if given.compare else write_golden())
