"""Checks that Hugging Face's from_pretrained loads folders that this library saved, with the weights it had.

usage: check_from_pretrained.py SOURCE SAVED   (needs torch and transformers; not part of the test suite)

SOURCE is the folder that the model was read from, SAVED what was written. Every parameter must be found under its name; those that differ
are counted, so an unchanged model must show 0.
"""
import sys

import torch
from transformers import AutoModelForCausalLM


def load(folder):
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        assert not info.get(problem), f"{folder}: {problem}: {info[problem]}"
    return model.eval()


source, saved = map(load, sys.argv[1:3])
theirs, ours = source.state_dict(), saved.state_dict()
assert theirs.keys() == ours.keys(), theirs.keys() ^ ours.keys()
different = [name for name in ours if not torch.equal(theirs[name].float(), ours[name].float())]
ids = torch.arange(8)[None] % source.config.vocab_size
with torch.no_grad():
    a, b = source(ids).logits.float(), saved(ids).logits.float()
print(f"{len(ours)} tensors, {len(different)} differ; logits differ by {((a - b).norm() / a.norm()).item():.3g} relative; "
      f"dtype {saved.dtype}")
