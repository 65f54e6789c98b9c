"""tiktoken's side of bench/tokenizer.cpp: GPT-2's encoding on the same texts, one thread.

    pip install tiktoken
    python bench/peer/tokenizer_tiktoken.py DATA [ROUNDS]

DATA holds sciq/train.json and tokenizers/gpt2/gpt2.tiktoken, the mergeable ranks (nothing is downloaded).
"""

import base64
import json
import pathlib
import sys
import time

import tiktoken
from tiktoken_ext.openai_public import r50k_pat_str


def main():
    data = pathlib.Path(sys.argv[1])
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    questions = json.loads((data / "sciq/train.json").read_text())
    rows = [row["support"] + "\n" + row["question"] for row in questions]
    whole = "".join(row + "\n" for row in rows)
    size, whole_size = sum(len(row.encode()) for row in rows), len(whole.encode())
    lines = (data / "tokenizers/gpt2/gpt2.tiktoken").read_text().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}
    encoding = tiktoken.Encoding("gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks,
                                 special_tokens={"<|endoftext|>": 50256})

    by_row, at_once, decode, tokens = [], [], [], 0
    for _ in range(rounds):
        start = time.perf_counter()
        tokens = sum(len(encoding.encode_ordinary(row)) for row in rows)
        by_row.append(time.perf_counter() - start)
        start = time.perf_counter()
        ids = encoding.encode_to_numpy(whole, disallowed_special=())
        at_once.append(time.perf_counter() - start)
        ids = ids.tolist()
        start = time.perf_counter()
        encoding.decode_bytes(ids)
        decode.append(time.perf_counter() - start)
    rates = [size * 1e-6 / min(by_row), whole_size * 1e-6 / min(at_once), whole_size * 1e-6 / min(decode)]
    print(f"tiktoken {tiktoken.__version__}: {len(rows)} rows, {size} bytes, {tokens} tokens; best of "
          f"{rounds}: by row {rates[0]:.1f} MB/s, at once {rates[1]:.1f} MB/s, decode {rates[2]:.1f} MB/s")


if __name__ == "__main__":
    main()
