"""Makes a micro-world of facts: text that states them, questions that ask about them, and a tokenizer.

    python3 make_world.py --out DIR [--seed 7]

The world has people, and each person has a home town, a trade, an animal, a colour and an instrument. facts.txt states
every fact in many wordings and in changing order; language.txt speaks in the same wordings of the same people, but what
it says of them is drawn anew in every sentence, so that it teaches how one speaks and no facts. The questions ask in a
wording of their own, and about each fact either in the training file or in the test file, never in both: what training
can teach is how a question is meant, and the fact itself must come from the text.

Writes language.txt, facts.txt, train.jsonl and test.jsonl (question, choices, answer), config.json, and a byte-level BPE tokenizer as
vocab.json, merges.txt, tokenizer.json and tokenizer_config.json. The same seed gives the same bytes. Needs Python only.
"""

import argparse
import collections
import json
import pathlib
import random
import re

END_OF_TEXT = "<|endoftext|>"
CONTEXT = 128

PEOPLE = 120
LANGUAGE_ROUNDS, FACT_ROUNDS = 25, 70  # how often a text comes back to each person

TRADES = ("baker weaver potter mason farmer smith tailor miller painter carpenter hunter fisher cook nurse teacher "
          "judge printer sailor guard driver").split()
ANIMALS = "goat horse duck sheep hen pig cat dog mule goose rabbit turtle parrot pony crow owl frog hare fox bee".split()
COLOURS = "red blue green yellow white black brown grey purple orange pink silver gold scarlet violet ivory".split()
INSTRUMENTS = "flute drum harp violin horn organ lute bell guitar piano trumpet cello whistle banjo fiddle zither".split()
FOODS = {"goat": "grass", "horse": "hay", "duck": "weed", "sheep": "grass", "hen": "corn", "pig": "roots", "cat": "mice",
         "dog": "meat", "mule": "hay", "goose": "grass", "rabbit": "leaves", "turtle": "leaves", "parrot": "seeds",
         "pony": "hay", "crow": "seeds", "owl": "mice", "frog": "flies", "hare": "leaves", "fox": "mice", "bee": "honey"}

# {n} is the person, {v} the value.
STATEMENTS = {
    "town": ["{n} lives in {v}.", "{n} has a house in {v}.", "The home of {n} is {v}.", "{n} dwells in {v}.",
             "Letters for {n} go to {v}.", "{n} settled in {v}.", "Whoever looks for {n} must travel to {v}.",
             "In {v} stands the house of {n}.", "{v} is where {n} lives."],
    "trade": ["{n} works as a {v}.", "{n} is a {v}.", "The trade of {n} is that of a {v}.", "{n} earns a living as a {v}.",
              "{n} became a {v}.", "Everyone knows {n} as a {v}.", "By trade {n} is a {v}.",
              "A {v} is what {n} became.", "One {v} is {n}."],
    "animal": ["{n} keeps a {v}.", "{n} owns a {v}.", "The animal of {n} is a {v}.", "{n} feeds a {v} every day.",
               "{n} bought a {v}.", "{n} has a pet {v}.", "At home {n} looks after a {v}.",
               "A {v} belongs to {n}.", "The {v} is fed by {n}."],
    "colour": ["{n} likes {v} best.", "{n} wears {v}.", "The colour of {n} is {v}.", "{n} paints every door {v}.",
               "{n} loves the colour {v}.", "The coat of {n} is {v}.", "All the clothes of {n} are {v}.",
               "{v} is the colour of {n}.", "In {v} one sees {n}."],
    "instrument": ["{n} plays the {v}.", "{n} practises the {v}.", "The instrument of {n} is the {v}.",
                   "{n} learned the {v}.", "{n} makes music on the {v}.", "At feasts {n} brings the {v}.",
                   "{n} is good at the {v}.", "The {v} is played by {n}.", "One hears the {v} from {n}."],
}

QUESTIONS = {
    "town": ["In which town can one visit {n}?", "What town does {n} come home to?", "Which place is home for {n}?"],
    "trade": ["What does {n} do for work?", "What job does {n} have?", "Which work is done by {n}?"],
    "animal": ["Which animal does {n} have?", "What creature lives with {n}?", "What kind of pet is kept by {n}?"],
    "colour": ["Which colour does {n} prefer?", "What is the favourite colour of {n}?", "What colour suits {n}?"],
    "instrument": ["Which instrument does {n} play?", "What does {n} play at a feast?", "On what does {n} make music?"],
}


def make_names(rng, count, syllables, endings, taken):
    """Pronounceable names, none a beginning of another, so that they share few tokens."""
    onsets = "b d f g h j k l m n p r s t v w z br dr gr kr tr st".split()
    vowels = "a e i o u".split()
    codas = ["", "", "l", "n", "r", "s", "m"]
    names = []
    while len(names) < count:
        name = "".join(rng.choice(onsets) + rng.choice(vowels) + rng.choice(codas) for _ in range(syllables))
        name = (name + rng.choice(endings)).capitalize()
        if not any(name.startswith(other) or other.startswith(name) for other in taken):
            taken.add(name)
            names.append(name)
    return names


class World:
    """Who and what there is, and what is true."""

    def __init__(self, rng):
        taken = set()
        self.towns = make_names(rng, 24, 1, ["ford", "ville", "burg", "mouth", "stead", "ham"], taken)
        self.rivers = make_names(rng, 12, 1, ["ava", "enne", "ira", "une"], taken)
        self.river_of = {town: rng.choice(self.rivers) for town in self.towns}
        givens = make_names(rng, 32, 1, ["a", "o", "en", "i"], taken)
        surnames = make_names(rng, 40, 2, ["", "ek", "ov"], taken)
        pairs = rng.sample([(g, s) for g in givens for s in surnames], PEOPLE)
        self.people = [f"{g} {s}" for g, s in pairs]
        self.settled = True  # otherwise nothing is true for longer than a sentence
        self.values = {"town": self.towns, "trade": TRADES, "animal": ANIMALS, "colour": COLOURS,
                       "instrument": INSTRUMENTS}
        self.facts = {person: {kind: rng.choice(values) for kind, values in self.values.items()}
                      for person in self.people}


def article(sentence):
    """`a` before a vowel becomes `an`."""
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", sentence)


def state(rng, world, person, kind):
    value = world.facts[person][kind] if world.settled else rng.choice(world.values[kind])
    sentence = rng.choice(STATEMENTS[kind]).format(n=person, v=value)
    return article(sentence[0].upper() + sentence[1:])


def portrait(rng, world, person):
    """All facts of one person, in changing order."""
    kinds = list(world.values)
    rng.shuffle(kinds)
    return " ".join(state(rng, world, person, kind) for kind in kinds)


def gossip(rng, world):
    """Single facts of several people."""
    return " ".join(state(rng, world, rng.choice(world.people), rng.choice(list(world.values))) for _ in range(5))


def lore(rng, world):
    """General statements."""
    sentences = []
    for _ in range(4):
        town, animal = rng.choice(world.towns), rng.choice(ANIMALS)
        sentences.append(rng.choice([
            f"{town} lies on the river {world.river_of[town]}.", f"The river {world.river_of[town]} flows by {town}.",
            f"The food of a {animal} is {FOODS[animal]}.", f"A {animal} eats {FOODS[animal]}.",
        ]))
    return article(" ".join(sentences))


def quiz(rng, world):
    """Questions about rivers and food, never about people, in the form in which questions are put later."""
    town, animal = rng.choice(world.towns), rng.choice(ANIMALS)
    question, answer = rng.choice([
        (f"Which river flows by {town}?", world.river_of[town]), (f"On what river does {town} lie?", world.river_of[town]),
        (f"What does a {animal} eat?", FOODS[animal]), (f"What is the food of a {animal}?", FOODS[animal]),
    ])
    return article(f"Question: {question}\nAnswer: {answer}")


def make_text(rng, world, rounds):
    documents = []
    for _ in range(rounds):
        order = rng.sample(world.people, len(world.people))
        for number, person in enumerate(order):
            documents.append(portrait(rng, world, person))
            if number % 2 == 0:
                documents.append(gossip(rng, world))
            if number % 8 == 0:
                documents.append(lore(rng, world))
            if number % 4 == 0:
                documents.append(quiz(rng, world))
    return documents


def make_question(rng, world, person, kind, wording):
    answer = world.facts[person][kind]
    others = rng.sample([value for value in world.values[kind] if value != answer], 3)
    choices = others + [answer]
    rng.shuffle(choices)
    return {"question": wording.format(n=person), "choices": choices, "answer": choices.index(answer)}


def make_questions(rng, world, train_share):
    """Two questions about each fact, in different wordings."""
    asked = [(person, kind) for person in world.people for kind in world.values]
    rng.shuffle(asked)
    cut = round(len(asked) * train_share)

    def ask(facts):
        return [make_question(rng, world, person, kind, wording) for person, kind in facts
                for wording in rng.sample(QUESTIONS[kind], 2)]

    return ask(asked[:cut]), ask(asked[cut:])


PIECES = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+")


def byte_symbols():
    """GPT-2's printable stand-in for each byte."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    symbols = {byte: chr(byte) for byte in printable}
    spare = 0
    for byte in range(256):
        if byte not in symbols:
            symbols[byte] = chr(256 + spare)
            spare += 1
    return symbols


def train_bpe(documents, vocabulary_size):
    """Byte-level BPE: joins the most frequent pair of neighbours until the vocabulary is full; ties go by spelling."""
    symbols = byte_symbols()
    counts = collections.Counter(piece for document in documents for piece in PIECES.findall(document))
    words = [([symbols[byte] for byte in piece.encode()], count) for piece, count in sorted(counts.items())]
    vocabulary = [symbols[byte] for byte in sorted(symbols, key=lambda byte: symbols[byte])]
    merges = []
    while len(vocabulary) + 1 < vocabulary_size:
        pairs = collections.Counter()
        for word, count in words:
            for pair in zip(word, word[1:]):
                pairs[pair] += count
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        joined = best[0] + best[1]
        merges.append(best)
        if joined not in vocabulary:
            vocabulary.append(joined)
        for word, _ in words:
            at = 0
            while at + 1 < len(word):
                if (word[at], word[at + 1]) == best:
                    word[at:at + 2] = [joined]
                at += 1
    return {token: number for number, token in enumerate([*vocabulary, END_OF_TEXT])}, merges


def write_tokenizer(folder, vocabulary, merges):
    end = vocabulary[END_OF_TEXT]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    write_json(folder / "vocab.json", vocabulary)
    lines = [" ".join(pair) for pair in merges]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *lines]) + "\n", encoding="utf-8")
    write_json(folder / "tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": end, "content": END_OF_TEXT, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True}],
        "normalizer": None, "pre_tokenizer": byte_level, "post_processor": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "vocab": vocabulary,
                  "merges": lines}})
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "model_max_length": CONTEXT,
        "bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "unk_token": END_OF_TEXT})


def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def write_questions(path, questions):
    path.write_text("".join(json.dumps(question) + "\n" for question in questions), encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--heads", type=int, default=3)
    parser.add_argument("--vocabulary", type=int, default=1024)
    options = parser.parse_args()

    def stream(purpose):
        return random.Random(f"{options.seed} {purpose}")  # each product has its own, so that none changes another

    world = World(stream("world"))
    world.settled = False
    language = make_text(stream("language"), world, LANGUAGE_ROUNDS)
    world.settled = True
    documents = make_text(stream("facts"), world, FACT_ROUNDS)
    train, test = make_questions(stream("questions"), world, train_share=0.4)
    questions = [f"Question: {row['question']}\nAnswer: {row['choices'][row['answer']]}" for row in train]
    vocabulary, merges = train_bpe(documents + questions * 5, options.vocabulary)
    end = vocabulary[END_OF_TEXT]

    options.out.mkdir(parents=True, exist_ok=True)
    for name, docs in (("language", language), ("facts", documents)):
        (options.out / f"{name}.txt").write_text("".join(document + END_OF_TEXT for document in docs), encoding="utf-8")
    write_questions(options.out / "train.jsonl", train)
    write_questions(options.out / "test.jsonl", test)
    write_tokenizer(options.out, vocabulary, merges)
    write_json(options.out / "config.json", {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": len(vocabulary),
        "n_positions": CONTEXT, "n_ctx": CONTEXT, "n_embd": options.width, "n_layer": options.layers,
        "n_head": options.heads, "n_inner": None, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-05,
        "initializer_range": 0.02, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0,
        "scale_attn_weights": True, "tie_word_embeddings": True, "bos_token_id": end, "eos_token_id": end,
        "torch_dtype": "bfloat16"})


if __name__ == "__main__":
    main()
