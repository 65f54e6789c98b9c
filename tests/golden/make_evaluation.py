"""Makes the golden values of evaluation with Hugging Face transformers, in float32, one thread, eager attention.

    python tests/golden/make_evaluation.py

For models of gpt2/ (see make_gpt2.py), evaluation.json holds `questions` (token ids of a prompt and its choices, the
sum of each choice's log-probabilities after the prompt), `greedy` (a prompt, an end-of-text token or null, and what
`model.generate(do_sample=False)` appends) and `texts` (ids, log-probability of each but the first, perplexity).
Made with torch 2.13.0 and transformers 5.23.0.
"""

import json
import pathlib

import torch
from transformers import AutoModelForCausalLM

MODELS = ["odd_width", "untied", "inverse_layer"]
HERE = pathlib.Path(__file__).parent


def log_probabilities(model, ids: list[int]) -> list[float]:
    with torch.no_grad():
        logits = model(torch.tensor([ids[:-1]])).logits[0]
    return torch.log_softmax(logits, -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()


def greedy(model, prompt: list[int], count: int, end: int | None) -> dict:
    ids = torch.tensor([prompt])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False,
                         eos_token_id=end, pad_token_id=0)
    return {"prompt": prompt, "max_new_tokens": count, "end_of_text": end, "tokens": out[0, len(prompt):].tolist()}


def evaluate(name: str, seed: int) -> dict:
    model = AutoModelForCausalLM.from_pretrained(HERE / "gpt2" / name, attn_implementation="eager",
                                                 dtype=torch.float32).eval()
    model.generation_config.bos_token_id = model.generation_config.eos_token_id = None
    context, vocabulary = model.config.n_positions, model.config.vocab_size
    generator = torch.Generator().manual_seed(seed)

    def random_ids(length: int) -> list[int]:
        return torch.randint(0, vocabulary, (length,), generator=generator).tolist()

    questions = []
    for prompt_length, lengths in [(7, [3, 1, 2, 5]), (1, [1, 1]), (context - 4, [5, 2, 1]), (12, [4])]:
        prompt, choices = random_ids(prompt_length), [random_ids(n) for n in lengths]
        scores = [sum(log_probabilities(model, prompt + choice)[prompt_length - 1:]) for choice in choices]
        questions.append({"prompt": prompt, "choices": choices, "log_likelihoods": scores})

    generations = [greedy(model, random_ids(n), count, None) for n, count in [(1, 8), (6, 15), (context - 5, 5)]]
    ended = generations[1]  # again, ending at its fourth token or before
    generations.append(greedy(model, ended["prompt"], 15, ended["tokens"][3]))

    texts = []
    for length in [2, context // 2, context]:
        ids = random_ids(length)
        values = log_probabilities(model, ids)
        with torch.no_grad():
            loss = model(torch.tensor([ids]), labels=torch.tensor([ids])).loss
        texts.append({"ids": ids, "log_probabilities": values, "perplexity": loss.exp().item()})
    return {"model": name, "questions": questions, "greedy": generations, "texts": texts}


def main() -> None:
    torch.set_num_threads(1)
    lines = ",\n".join(json.dumps(evaluate(name, seed)) for seed, name in enumerate(MODELS))
    (HERE / "evaluation.json").write_text(f"[{lines}]\n")


if __name__ == "__main__":
    main()
