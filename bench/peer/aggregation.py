"""Both sides of bench/aggregation.cpp: Flower's strategies and NumPy as its users write it, beside ours.

    pip install flwr numpy
    python bench/peer/aggregation.py --binary PATH [--out docs/aggregation_benchmark.md] [--numbers 10000000]
        [--clients 32] [--rounds 3] [--minutes 5] [--threads 1,2] [--processor-time]

The sides run one after the other. The first round is of all policies, those after it of the mean family, which memory bounds
and whose times differ most from round to round; no round begins that would not end within the minutes, but for the first. A
side's time is that of the faster of two calls. Needs 8 GB of memory, and 1.3 GB where temporary files go, for "files".

Flower's functions use one thread, so they run once a round, with as many as the largest number. Flower's time is that of its own
aggregation on arrays that are decoded already; "with decoding" is what its server pays, which gets the updates as bytes in
NumPy's file format. Of `aggregate` and `aggregate_inplace` the faster counts. Policies of which Flower needs minutes are compared
on fewer numbers, both sides on the same ones. "streamed" is the mean from updates that come sixteen at a time, "files" that from
files which are mapped. Prints a table and, last, one line of JSON; `--out` writes the tables as a page. `--processor-time` counts
processor time instead, for machines that do other work, too.
"""

import argparse
import datetime
import functools
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

MEANS = ["fedavg", "fedavg/streamed", "fedavg/files", "fedprox", "fedavgm", "fedadam", "fedyogi", "fedadagrad", "norm"]
SORTED = ["trimmed_mean", "coordinate_median"]
# policies, and the part of the numbers that the sides are compared on
GROUPS = [(MEANS, 1), (SORTED, 5), (["geometric_median", "krum", "multi_krum"], 10), (["bulyan"], 40)]
LAYERS = 10  # arrays an update has at Flower's
clock = time.perf_counter


def best_of_two(work, make=lambda: (), patience=2):
    """Seconds of the faster of two calls: the first makes what is kept between rounds. Of a slow one, the first."""
    taken = []
    while len(taken) < 2 and sum(taken) < patience:
        arguments = make()
        start = clock()
        work(*arguments)
        taken.append(clock() - start)
    return min(taken)


def random_updates(clients, numbers):
    import numpy as np
    random = np.random.default_rng(1)
    updates = np.empty((clients, numbers), np.float32)
    for row in updates:
        random.random(out=row, dtype=np.float32)
        row -= 0.5
        row *= 0.06
    return updates


def flower(policies, clients, numbers):
    """{policy: {"arrays": seconds, "bytes": seconds}} of Flower's own functions."""
    import logging
    logging.disable(logging.CRITICAL)
    import numpy as np
    from flwr.common import Code, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
    from flwr.server import strategy
    from flwr.server.strategy import aggregate as functions

    updates = random_updates(clients, numbers)
    arrays = [(np.array_split(row, LAYERS), 100 + k) for k, row in enumerate(updates)]
    start = [np.full_like(part, 0.5) for part in arrays[0][0]]

    @functools.cache
    def encoded():
        return [(None, FitRes(Status(Code.OK, ""), ndarrays_to_parameters(parts), weight, {})) for parts, weight in arrays]

    def strategy_of(policy, parameters):
        begin = {"initial_parameters": parameters}
        return {"fedavgm": lambda: strategy.FedAvgM(server_learning_rate=1.0, server_momentum=0.9, **begin),
                "fedadam": lambda: strategy.FedAdam(**begin), "fedyogi": lambda: strategy.FedYogi(**begin),
                "fedadagrad": lambda: strategy.FedAdagrad(**begin)}.get(policy, strategy.FedAvg)()

    def mean_family(policy):
        # The strategy itself, once on bytes and once with decoding and encoding taken out of its way.
        seconds = {}
        results = encoded()
        for inplace in (True, False):
            acting = strategy_of(policy, ndarrays_to_parameters(start))
            acting.inplace = inplace
            acting.initialize_parameters(None)
            taken = best_of_two(lambda: acting.aggregate_fit(1, results, []), patience=1)
            seconds["bytes"] = min(taken, seconds.get("bytes", taken))
        decoded = [(None, FitRes(Status(Code.OK, ""), parts, weight, {})) for parts, weight in arrays]
        modules = [sys.modules[name] for name in list(sys.modules) if name.startswith("flwr.server.strategy.")]
        kept = [(module, name, getattr(module, name)) for module in modules
                for name in ("parameters_to_ndarrays", "ndarrays_to_parameters") if hasattr(module, name)]
        for module, name, _ in kept:
            setattr(module, name, lambda same: same)
        try:
            for inplace in (False, True):  # in place last: it writes over its input
                acting = strategy_of(policy, [part.copy() for part in start])
                acting.inplace = inplace
                acting.initialize_parameters(None)
                taken = best_of_two(lambda: acting.aggregate_fit(1, decoded, []))
                seconds["arrays"] = min(taken, seconds.get("arrays", taken))
        finally:
            for module, name, own in kept:
                setattr(module, name, own)
        return seconds

    def robust(policy):
        work = {"trimmed_mean": lambda results: functions.aggregate_trimmed_avg(results, 0.2),
                "coordinate_median": functions.aggregate_median,
                "krum": lambda results: functions.aggregate_krum(results, 1, 0),
                "multi_krum": lambda results: functions.aggregate_krum(results, 1, clients - 1),
                "bulyan": lambda results: functions.aggregate_bulyan(results, 1, functions.aggregate_krum, to_keep=0),
                }[policy]
        results = encoded()
        start = clock()
        for _, result in results:
            parameters_to_ndarrays(result.parameters)
        decoding = clock() - start
        seconds = best_of_two(work, lambda: (list(arrays),))  # Bulyan takes from its list
        return {"arrays": seconds, "bytes": seconds + decoding}

    measured = {}
    for policy in policies:
        if policy in ("fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad"):
            measured[policy] = mean_family(policy)
        elif policy in ("trimmed_mean", "coordinate_median", "krum", "multi_krum", "bulyan"):
            measured[policy] = robust(policy)
    return measured


def numpy_reference(policies, clients, numbers):
    """{policy: {"arrays": seconds}}: a matrix of one update a row, and the formula in as few calls as NumPy needs."""
    import numpy as np
    updates = random_updates(clients, numbers)
    weights = np.arange(100, 100 + clients, dtype=np.float32)
    x, m, v = (np.full(numbers, value, np.float32) for value in (0.5, 0.0, 1e-6))

    def mean():
        return weights @ updates / weights.sum()

    def adaptive(moment):
        nonlocal m, v
        d = mean()
        m = np.float32(0.9) * m + np.float32(0.1) * d
        v = moment(d)
        return x + np.float32(0.1) * m / (np.sqrt(v) + np.float32(1e-3))

    def momentum():
        nonlocal m
        m = np.float32(0.9) * m + mean()
        return x + m

    def bounded():
        scales = np.minimum(1, 1 / np.linalg.norm(updates, axis=1))
        return x + (weights * scales) @ updates / weights.sum()

    def distances():
        products = updates @ updates.T
        squares = np.diag(products)
        return squares[:, None] + squares[None, :] - 2 * products

    def best(table, left):
        part = np.sort(table[np.ix_(left, left)], axis=1)[:, 1:max(2, len(left) - 2)]
        return np.argsort(part.sum(axis=1), kind="stable")

    def bulyan():
        table, left, picked = distances(), list(range(clients)), []
        while len(picked) < clients - 2:
            picked.append(left.pop(best(table, left)[0]))
        chosen = updates[picked]
        nearest = np.argsort(np.abs(chosen - np.median(chosen, axis=0)), axis=0)[:clients - 4]
        return x + np.take_along_axis(chosen, nearest, axis=0).mean(axis=0)

    def geometric():
        z = mean()
        for _ in range(16):
            w = weights / np.maximum(1e-6, [np.linalg.norm(row - z) for row in updates]).astype(np.float32)
            z = w @ updates / w.sum()
        return x + z

    cut = int(0.2 * clients)
    every = list(range(clients))
    work = {
        "fedavg": lambda: x + mean(), "fedprox": lambda: x + mean(), "fedavgm": momentum,
        "fedadam": lambda: adaptive(lambda d: np.float32(0.99) * v + np.float32(0.01) * d**2),
        "fedyogi": lambda: adaptive(lambda d: v - np.float32(0.01) * d**2 * np.sign(v - d**2)),
        "fedadagrad": lambda: adaptive(lambda d: v + d**2), "norm": bounded,
        "trimmed_mean": lambda: x + np.sort(updates, axis=0)[cut:clients - cut].mean(axis=0),
        "coordinate_median": lambda: x + np.median(updates, axis=0), "geometric_median": geometric,
        "krum": lambda: x + updates[best(distances(), every)[0]],
        "multi_krum": lambda: x + updates[best(distances(), every)[:clients - 1]].mean(axis=0), "bulyan": bulyan,
    }
    return {policy: {"arrays": best_of_two(work[policy])} for policy in policies if policy in work}


def last_json(command, threads):
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=300,
                          env={**os.environ, **dict.fromkeys(names, str(threads)), "FLWR_TELEMETRY_ENABLED": "0"})
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stderr[-3000:]}")
    return json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1])


def peer_of(measured, policy):
    """What a peer has for the policy: FedProx is FedAvg on the owner's side, and nobody else streams or maps files."""
    return measured.get(policy) or (measured.get("fedavg") if policy == "fedprox" or "/" in policy else None)


def measure_round(options, runs, groups):
    """Adds one more measurement of the groups to `runs`: {threads: {"memory": [GB/s], "rows": {policy: a row}}}."""
    seconds = "processor_s" if options.processor_time else "wall_s"
    for policies, part in groups:
        numbers = max(1000, options.numbers // part)

        def ours(all_numbers, threads):
            return last_json([options.binary, f"numbers={all_numbers}", f"clients={options.clients}", f"threads={threads}",
                              "policies=" + ",".join(policies)], threads)["policies"]

        def peer(side, threads):
            words = ["--side", side, "--numbers", numbers, "--clients", options.clients, "--policies", ",".join(policies)]
            return last_json([sys.executable, __file__, *words, *["--processor-time"] * options.processor_time], threads)

        flowers = peer("flower", max(runs))
        for threads, run in runs.items():
            compared = ours(numbers, threads)
            # The rate of memory is that of all numbers, whatever the sides are compared on.
            whole = compared if part == 1 else ours(options.numbers, threads)
            arrays = peer("numpy", threads)
            gigabytes = 4e-9 * options.numbers * options.clients
            run["memory"].append(gigabytes / whole["plain_sum"][seconds])
            for policy in policies:
                row = run["rows"].setdefault(policy, {"policy": policy, "numbers": numbers, "ours_s": [], "gb_per_s": [],
                                                      "flower_s": [], "flower_bytes_s": [], "numpy_s": []})
                row["ours_s"].append(compared[policy][seconds])
                row["gb_per_s"].append(gigabytes / whole[policy][seconds])
                if theirs := peer_of(flowers, policy):
                    row["flower_s"].append(theirs["arrays"])
                    row["flower_bytes_s"].append(theirs["bytes"])
                if theirs := peer_of(arrays, policy):
                    row["numpy_s"].append(theirs["arrays"])
        print(f"measured {', '.join(policies)}", file=sys.stderr, flush=True)


def spread_of(values):
    """Minimum, median and maximum."""
    return [min(values), statistics.median(values), max(values)]


def result_of(threads, run):
    for row in run["rows"].values():
        for side in ("flower", "flower_bytes", "numpy"):
            ratios = [theirs / ours for theirs, ours in zip(row[f"{side}_s"], row["ours_s"])]
            row[f"{side}_ratio"] = spread_of(ratios) if ratios else None
    return {"threads": threads, "memory_gb_per_s": spread_of(run["memory"]),
            "policies": list(run["rows"].values())}


def table(result):
    """Markdown."""
    def spread(values):
        return " / ".join(f"{value:.1f}" for value in dict.fromkeys(values)) if values else "-"  # once, if there was one round
    lines = [f"{result['threads']} thread(s); a plain sum over the updates reads {spread(result['memory_gb_per_s'])} GB/s", "",
             "| policy | numbers compared | rounds | ours, ms | GB/s, all numbers | times Flower's | with its decoding | times NumPy's |",
             "|---|---|---|---|---|---|---|---|"]
    for row in result["policies"]:
        milliseconds = [1e3 * seconds for seconds in row["ours_s"]]
        lines.append(f"| {row['policy']} | {row['numbers']:,} | {len(milliseconds)} | {spread(spread_of(milliseconds))} | "
                     f"{statistics.median(row['gb_per_s']):.1f} | {spread(row['flower_ratio'])} | "
                     f"{spread(row['flower_bytes_ratio'])} | {spread(row['numpy_ratio'])} |")
    return "\n".join(lines)


def machine():
    """The processor's name, how many processors there are, and the memory."""
    with open("/proc/cpuinfo") as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    gigabytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} processors, {gigabytes:.0f} GB"


def page(options, results, rounds):
    """The tables with what they were measured on."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("flwr", "numpy"))
    clock_name = "processor time" if options.processor_time else "wall-clock time"
    head = f"""# Aggregation, measured

Written by `bench/peer/aggregation.py` on {datetime.date.today()}: {options.clients} clients' updates of {options.numbers:,} numbers, {rounds} round(s) of the
mean family, all sides in turn, by {clock_name}; minimum / median / maximum. {machine()}; Python {platform.python_version()}, {versions}.

Flower's time is that of its own functions on arrays that are decoded already; its server gets bytes and also pays for
"its decoding". "streamed" takes the updates sixteen at a time into one running sum, so that no more of them need be in memory; "files" does so
from files in the system's cache, which it maps, as the owner of a federation does. FedProx is FedAvg here. Policies
of which a peer needs minutes are compared on fewer numbers, both sides on the same ones; GB/s are of all numbers.
"""
    return head + "".join(f"\n{table(result)}\n" for result in results)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=pathlib.Path, help="the program bench/aggregation.cpp")
    parser.add_argument("--out", type=pathlib.Path, help="writes a page in Markdown")
    parser.add_argument("--numbers", type=int, default=10_000_000, help="trained parameters")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=5, help="begins no round that would end later")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--processor-time", action="store_true", help="count it instead of the wall clock's; for 1 thread")
    parser.add_argument("--side", choices=["flower", "numpy"], help=argparse.SUPPRESS)
    parser.add_argument("--policies", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        if options.processor_time:
            global clock
            clock = time.process_time
        side = {"flower": flower, "numpy": numpy_reference}[options.side]
        print(json.dumps(side(options.policies.split(","), options.clients, options.numbers)))
        return
    if not options.binary:
        parser.error("--binary says where the program is")
    runs = {int(threads): {"memory": [], "rows": {}} for threads in options.threads.split(",")}
    start = time.monotonic()
    rounds = 0
    longest = 0  # of the rounds of the mean family
    while rounds < options.rounds and (rounds == 0 or time.monotonic() - start + longest <= 60 * options.minutes):
        for group in GROUPS if rounds == 0 else GROUPS[:1]:
            begin = time.monotonic()
            measure_round(options, runs, [group])
            if group is GROUPS[0]:
                longest = max(longest, time.monotonic() - begin)
        rounds += 1
        print(f"round {rounds}: {time.monotonic() - start:.0f} s in all", file=sys.stderr, flush=True)
    results = [result_of(threads, run) for threads, run in runs.items()]
    text = page(options, results, rounds)
    print(text)
    if options.out:
        options.out.write_text(text)
    print(json.dumps({"bench": "aggregation", "clients": options.clients, "numbers": options.numbers, "rounds": rounds,
                      "runs": results}))


if __name__ == "__main__":
    main()
