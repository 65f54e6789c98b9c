"""Writes aggregation/policies.json: two rounds of every policy on a small case, in NumPy and float64, by the papers' formulas."""
import json
from pathlib import Path

import numpy as np

rng = np.random.default_rng(5)
n, clients = 6, 5
start = rng.normal(size=n).astype(np.float32).astype(np.float64)
rounds = [[rng.normal(size=n).astype(np.float32).astype(np.float64) for _ in range(clients)] for _ in range(2)]
weights = [3.0, 1.0, 10.0, 2.0, 5.0]


def mean(deltas):
    return sum(w * d for w, d in zip(weights, deltas)) / sum(weights)


def fed_avg_m(x, state, deltas, beta=0.9):
    state["m"] = beta * state.get("m", 0) + mean(deltas)
    return x + state["m"]


def adaptive(rule, eta, b1=0.9, b2=0.99, tau=1e-3):
    def step(x, state, deltas):
        d = mean(deltas)
        v = state.get("v", np.full(n, tau**2))
        state["m"] = b1 * state.get("m", 0) + (1 - b1) * d
        state["v"] = {"adam": lambda: b2 * v + (1 - b2) * d**2,
                      "yogi": lambda: v - (1 - b2) * d**2 * np.sign(v - d**2),
                      "adagrad": lambda: v + d**2}[rule]()
        return x + eta * state["m"] / (np.sqrt(state["v"]) + tau)
    return step


def trimmed(x, _, deltas, share=0.2):
    cut = int(np.floor(share * clients))
    return x + np.sort(deltas, axis=0)[cut:clients - cut].mean(axis=0)


def bounded(x, _, deltas, bound=1.0):
    return x + mean([d * min(1, bound / np.linalg.norm(d)) for d in deltas])


policies = {
    "fedavg": lambda x, _, d: x + mean(d), "fedavgm": fed_avg_m, "fedadam": adaptive("adam", 0.1),
    "fedyogi": adaptive("yogi", 0.01), "fedadagrad": adaptive("adagrad", 0.1, b1=0.0), "trimmed": trimmed,
    "median": lambda x, _, d: x + np.median(d, axis=0), "bounded": bounded,
}
results = {}
for name, policy in policies.items():
    x, state = start, {}
    for deltas in rounds:
        x = policy(x, state, deltas)
    results[name] = x.tolist()
folder = Path(__file__).parent / "aggregation"
folder.mkdir(exist_ok=True)
(folder / "policies.json").write_text(json.dumps(
    {"start": start.tolist(), "weights": weights, "rounds": [[d.tolist() for d in r] for r in rounds], "results": results}) + "\n")
