"""The sections of docs/benchmarks.md that say where a step's time goes; of what bench/step_profile measured."""

import statistics

from markdown_table import table

LAYERS = {"768 to 2304": "queries, keys and values", "768 to 64": "scored rows through keys' and values' weights, a head at a time", "768 to 768": "attention's output",
          "768 to 3072": "into the feed-forward layer", "3072 to 768": "out of it", "768 to 50257": "head"}
BLOCKS, HEADS, WIDTH, HIDDEN = 8, 12, 768, 3072  # of the measured client; its last block computes few rows
TRAINED = 3  # blocks below the last one whose activations are computed again for their weights' gradients


def shown(value):
    """With one digit, and never as -0.0."""
    return f"{round(value, 1) + 0.0:.1f}"


def measured(results):
    """(type, what bench/step_profile measured in it)"""
    found = ((kind, results.one("budget", kind)) for kind in ("bfloat16", "float32"))
    return [(kind, record) for kind, record in found
            if record and min(record["cpu_ms"], record["wall_ms"], record["gflop"], record["own_gflop_s"]) > 0]


def named(what):
    for widths, layer in LAYERS.items():
        if what.endswith(widths):
            return f"{what.removesuffix(widths)}{layer} ({widths})"
    return what


def called(record, words):
    """How often LibTorch's operators are called a step, where that was counted."""
    return words.format(f"{record['operators']:,.0f}") if "operators" in record else ""


def budget(results):
    lines = []
    for kind, record in measured(results):
        lines += [f"### {kind}", "", f"{record['steps']} steps of {record['rows']:.0f} rows on average: {record['cpu_ms']:.0f} ms of processor time "
                  f"({record['system_ms']:.1f} in the system), {record['wall_ms']:.0f} ms by the clock on {record['threads']} threads; "
                  f"{record['gflop']:.0f} Gflop in products; {record['faults']:.1f} page faults and {record['allocations']:.0f} "
                  f"allocations of LibTorch's a step{called(record, ', {} calls of its operators')}; at most {record['anonymous_mb']:.0f} MB anonymous, {record['resident_mb']:.0f} MB "
                  "resident.", ""]
        rows = []
        for line in record["lines"]:
            share, speed = 100 * line["ms"] / record["cpu_ms"], line["gflop"] / line["ms"] * 1e3 if line["gflop"] and line["ms"] else 0
            if share < 0.15:
                continue
            name = named(line["what"]) if line["what"] else f"**{line['part']}**"
            rows.append([name, f"{share:.1f} %", shown(line["ms"]), f"{line['gflop']:.1f}" if speed else "",
                         f"{speed:.0f}" if speed else ""])
        lines += table(["part", "share", "ms a step", "Gflop", "Gflop/s of one processor"], rows)
    return ["## Budget of a step", "", "By `bench/step_profile`, which asks every millisecond of processor time what runs. Products are of "
            "linear layers: forward, the gradient of their input, and of their weight.", "", *lines] if lines else []


def floors(record):
    """What an item cannot be below on this machine, in ms, and of what that is made; by its part."""
    ms_of = lambda gigabytes, kind: gigabytes / record[f"{kind}_gb_s"] * 1e3
    blocks, wide, numbers = BLOCKS - 1, 2 if record["type"] == "bfloat16" else 4, record["trained"]
    row = record["rows"] * WIDTH * wide * 1e-9  # GB of one number a feature
    found = {}
    if record.get("pairs") and "softmax_ns" in record:  # forward two products, backward five; the last block has few queries
        gflop, pairs = 14e-9 * record["pairs"] * WIDTH * blocks, record["pairs"] * HEADS * blocks
        times = gflop / record["own_gflop_s"] * 1e3, 1e-6 * pairs * (record["softmax_ns"] + record["softmax_backward_ns"]), ms_of(11 * blocks * row, "cache")
        found["attention"] = (sum(times), f"{gflop:.1f} Gflop of causal products at the speed of the limit, {times[0]:.0f} ms; softmax "
                              f"and its gradient besides them for {pairs * 1e-6:.0f} million pairs and heads, in the first cache, {times[1]:.0f} ms; queries, keys, values, results "
                              f"and their gradients read and written, {times[2]:.0f} ms")
    hidden = record["rows"] * HIDDEN * 1e-6
    forward = (blocks + TRAINED) * hidden * max(record["activation_ns"], 2 * wide / record["cache_gb_s"])
    backward = blocks * hidden * max(record["slope_ns"], 3 * wide / record["cache_gb_s"])
    found["activations"] = (forward + backward, f"{(2 * blocks + TRAINED) * hidden:.0f} million of them or their slopes at the speed of the first cache, or "
                            "their bytes at that of the caches, whichever is slower")
    volume = numbers * (34 if wide == 2 else 32) * 1e-9
    found["optimiser"] = (ms_of(volume, "memory"), f"one pass over {numbers * 1e-6:.1f} million numbers, their gradients and both moments: "
                          f"{volume * 1e3:.0f} MB at the speed of the memory")
    volume = (4 + 2 + 2 * 4) * blocks * row
    found["norms"] = (ms_of(volume, "cache") + ms_of(4e-9 * numbers, "memory"), "each row read and written once forward, read twice and written once "
                      f"backward, with the residual sums beside them, {volume * 1e3:.0f} MB at the speed of the caches; the gradients read once for "
                      "their norm")
    volume = (3 * blocks + 9 * TRAINED) * row
    found["memory traffic"] = (ms_of(volume, "cache"), "the residual sums at the blocks' ends, and what is summed to bias gradients: "
                               f"{volume * 1e3:.0f} MB at the speed of the caches")
    return found


ABOVE = {"activations": "what a product wrote comes from the third cache, or from memory",
         "memory traffic": "numbers come from the third cache or from memory; gathered rows, conversions of parameters; where a norm follows, the "
                           "residual sum is a part of it already",
         "norms": "they take the residual sums with them; a row's sums, its division and its root wait for each other"}


def without_floor(part, record):
    """What an item is that has none."""
    if part == "framework":
        return "what runs in no kernel and in no operator of LibTorch's" + called(record, ", of which a step calls {}")
    return "softmax and its gradient over the vocabulary" if part == "loss without its products" else ""


def above(part, record):
    """What lies above an item's floor, of what is known."""
    if part != "attention":
        return ABOVE.get(part, "")
    of = {line["what"]: line["ms"] for line in record["lines"] if line["part"] == part}
    reading = sum(ms for what, ms in of.items() if what.endswith("Products::read"))
    apart = 3 * WIDTH * (2 if record["type"] == "bfloat16" else 4) / 1000  # queries, keys and values lie side by side
    return f"{100 * reading / of['']:.0f} % of it reads rows of heads, {apart:.1f} KB apart" if reading else ""


def of_kernel(results, kind):
    """How near a tile of offsite's products alone came to the peak in the same seconds, in a sentence."""
    peaks, kernels = results.speeds("peak", kind), results.speeds("peak", f"kernel {kind}")
    shares = [speed / peaks[r] for r, speed in kernels.items() if r in peaks]
    return f" A tile of offsite's own alone, with operands in the second cache, reaches {100 * statistics.median(shares):.0f} % of it." if shares else ""


def explained(part, record, least):
    """An item's floor, and in words what that is and, of what was looked into, what is above."""
    if part not in least:
        return None, without_floor(part, record)
    floor, what = least[part]
    more = above(part, record)
    return floor, what + (f". Above it: {more}" if more else "")


def between(results):
    """From the limit to the step, item by item."""
    lines = []
    for kind, record in measured(results):
        sums = {line["part"]: line["ms"] for line in record["lines"] if not line["what"]}
        limit = record["gflop"] / record["own_gflop_s"] * 1e3
        head = sum(x["ms"] for x in record["lines"] if x["part"] == "loss and head" and x["gflop"])
        products = sums.pop("products", 0) + head
        sums["loss without its products"] = sums.pop("loss and head", 0) - head
        least = floors(record)
        slower = products > limit
        sums["processors that wait: for each other, and for what one thread does alone"] = record["threads"] * record["wall_ms"] - record["cpu_ms"]
        items = [("**the limit**: all products at the speed of one of the feed-forward layer's size", limit, limit, ""),
                 ("products that are slower than that one" if slower else "products that are faster than the matrix library's", products - limit, None,
                  ("other shapes, cold weights and results; the head's weight is read for a few rows; " if slower else "") +
                  "tiles of offsite's own"),
                 *((part, ms, *explained(part, record, least)) for part, ms in sorted(sums.items(), key=lambda item: -item[1]))]
        whole = record["threads"] * record["wall_ms"]
        peaks = results.speeds("peak", kind).values()
        peak = statistics.median(peaks) / record["threads"] if peaks else None
        lowest = min(limit, products) + sum(floor for floor, _ in least.values())
        items.append(("**the step**: all processors, by the clock", whole, lowest, ""))
        lines += [f"In {kind} a step takes {whole / limit:.3f} times its limit of {limit:.0f} ms, which is {100 * limit / whole:.1f} % of it. With its "
                  "products at the limit's speed, or as they are where they are faster, and every other item at its floor it would take "
                  f"{lowest / limit:.3f} times its limit: **kernels that waste nothing would end at {100 * limit / lowest:.0f} % of the limit's rate**." +
                  (f" The products alone run at {100 * record['gflop'] / products * 1e3 / peak:.0f} % of the processor's peak, the limit is "
                   f"{100 * record['own_gflop_s'] / peak:.0f} % of it." + of_kernel(results, kind) if peak and products else ""), "",
                  *table(["item", "ms a step", "of the step", "floor, ms", "what the floor is, or what the item is"],
                         [(name, shown(ms), f"{shown(100 * ms / whole)} %", "" if floor is None else shown(floor), what)
                          for name, ms, floor, what in items])]
    if not lines:
        return []
    return ["## What stands between", "", "What separates the step from the limit of the products that it computes, which are fewer than the usual ones, and how much of it has to stay. An item's floor is what its numbers "
            "cost at the best speed that this machine showed in the same run (`bench/step_profile/floors.cpp`: both processors busy, the best of "
            "several tries): arithmetic in registers and the first cache, bytes updated in place in the caches or in memory. What lies "
            "above the floor is overhead; the floor itself stays, unless two items become one that reads its numbers once. Where no floor is given, "
            "none is claimed.", "", *lines]
