"""Writes aggregation/policies.json: two rounds of every policy on a small case, in NumPy and float64, by the papers' formulas,
and by Flower's strategies where those follow the papers too. Needs numpy and flwr 1.41.

Flower departs from the papers, and we do not, in these: its FedAdam corrects the moments' bias, and it, FedYogi and FedAdagrad
start v at 0 instead of tau^2 (Reddi et al., arXiv:2003.00295, algorithm 2); its Multi-Krum weights the chosen by their samples
(Blanchard et al., arXiv:1703.02757, average them). Its Bulyan has to be told `to_keep=0`; by its defaults it fails.
"""
import json
import logging
from pathlib import Path

import numpy as np
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import strategy
from flwr.server.strategy import aggregate as functions

rng = np.random.default_rng(5)
n, clients = 6, 7
start = rng.normal(size=n).astype(np.float32).astype(np.float64)
rounds = [[rng.normal(size=n).astype(np.float32).astype(np.float64) for _ in range(clients)] for _ in range(2)]
weights = [3.0, 1.0, 10.0, 2.0, 5.0, 4.0, 7.0]


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


def krum_order(deltas, f):
    scores = []
    for i, a in enumerate(deltas):
        distances = sorted(float(((a - b) ** 2).sum()) for j, b in enumerate(deltas) if j != i)
        scores.append(sum(distances[:max(1, len(deltas) - f - 2)]))
    return np.argsort(scores, kind="stable")


def multi_krum(keep, f=1):
    def step(x, _, deltas):
        best = krum_order(deltas, f)[:keep or clients - f]
        return x + np.mean([deltas[i] for i in best], axis=0)
    return step


def bulyan(x, _, deltas, f=1):
    left, picked = list(deltas), []
    while len(picked) < clients - 2 * f:
        picked.append(left.pop(krum_order(left, f)[0]))
    picked = np.array(picked)
    nearest = np.argsort(np.abs(picked - np.median(picked, axis=0)), axis=0, kind="stable")[:clients - 4 * f]
    return x + np.take_along_axis(picked, nearest, axis=0).mean(axis=0)


def geometric_median(x, _, deltas):
    z = mean(deltas)
    for _ in range(16):
        w = [a / max(1e-6, np.linalg.norm(d - z)) for a, d in zip(weights, deltas)]
        z = sum(a * d for a, d in zip(w, deltas)) / sum(w)
    return x + z


policies = {
    "fedavg": lambda x, _, d: x + mean(d), "fedavgm": fed_avg_m, "fedadam": adaptive("adam", 0.1),
    "fedyogi": adaptive("yogi", 0.01), "fedadagrad": adaptive("adagrad", 0.1, b1=0.0), "trimmed": trimmed,
    "median": lambda x, _, d: x + np.median(d, axis=0), "bounded": bounded,
    "krum": multi_krum(1), "multikrum": multi_krum(0), "bulyan": bulyan, "geometric": geometric_median,
}
results = {}
for name, policy in policies.items():
    x, state = start, {}
    for deltas in rounds:
        x = policy(x, state, deltas)
    results[name] = x.tolist()


def by_flower(acting):
    """Two rounds of a strategy of Flower's, in float32. Its clients return values, not changes."""
    x = start.astype(np.float32)
    for number, deltas in enumerate(rounds):
        returned = [(None, FitRes(Status(Code.OK, ""), ndarrays_to_parameters([x + d.astype(np.float32)]), int(w), {}))
                    for d, w in zip(deltas, weights)]
        parameters, _ = acting.aggregate_fit(number + 1, returned, [])
        x = parameters_to_ndarrays(parameters)[0]
    return x.tolist()


logging.disable(logging.CRITICAL)
begin = {"initial_parameters": ndarrays_to_parameters([start.astype(np.float32)])}
flower = {
    "fedavg": strategy.FedAvg(**begin), "fedavgm": strategy.FedAvgM(server_learning_rate=1.0, server_momentum=0.9, **begin),
    "trimmed": strategy.FedTrimmedAvg(beta=0.2, **begin), "median": strategy.FedMedian(**begin),
    "krum": strategy.Krum(num_malicious_clients=1, num_clients_to_keep=0, **begin),
    "bulyan": strategy.Bulyan(num_malicious_clients=1, first_aggregation_rule=functions.aggregate_krum, to_keep=0, **begin),
}
flower = {name: by_flower(acting) for name, acting in flower.items()}
for name, values in flower.items():
    assert np.abs(np.array(values) - results[name]).max() < 1e-6, name
folder = Path(__file__).parent / "aggregation"
folder.mkdir(exist_ok=True)
(folder / "policies.json").write_text(json.dumps(
    {"start": start.tolist(), "weights": weights, "rounds": [[d.tolist() for d in r] for r in rounds], "results": results,
     "flower": flower}) + "\n")
