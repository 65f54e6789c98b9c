"""The sections of docs/benchmarks.md that say where a step's time goes; of what bench/step_profile measured."""

from markdown_table import table

LAYERS = {"768 to 2304": "queries, keys and values", "768 to 1536": "keys and values of the last block", "768 to 768": "attention's output",
          "768 to 3072": "into the feed-forward layer", "3072 to 768": "out of it", "768 to 50257": "head"}
BLOCKS, WIDTH, HIDDEN = 8, 768, 3072  # of the measured client; its last block computes few rows beyond keys and values
TRAINED = 3  # blocks below the last one whose activations are computed again for their weights' gradients


def named(what):
    for widths, layer in LAYERS.items():
        if what.endswith(widths):
            return f"{what.removesuffix(widths)}{layer} ({widths})"
    return what


def budget(results):
    lines = []
    for kind in ("bfloat16", "float32"):
        record = results.one("budget", kind)
        if record is None:
            continue
        lines += [f"### {kind}", "", f"{record['steps']} steps of {record['rows']:.0f} rows on average: {record['cpu_ms']:.0f} ms of processor time "
                  f"({record['system_ms']:.1f} in the system), {record['wall_ms']:.0f} ms by the clock on {record['threads']} threads; "
                  f"{record['gflop']:.0f} Gflop in products; {record['faults']:.1f} page faults and {record['allocations']:.0f} "
                  f"allocations of LibTorch's a step; at most {record['anonymous_mb']:.0f} MB anonymous, {record['resident_mb']:.0f} MB "
                  "resident.", ""]
        rows = []
        for line in record["lines"]:
            share, speed = 100 * line["ms"] / record["cpu_ms"], line["gflop"] / line["ms"] * 1e3 if line["gflop"] else 0
            if share < 0.15:
                continue
            name = named(line["what"]) if line["what"] else f"**{line['part']}**"
            rows.append([name, f"{share:.1f} %", f"{line['ms']:.1f}", f"{line['gflop']:.1f}" if speed else "",
                         f"{speed:.0f}" if speed else ""])
        lines += table(["part", "share", "ms a step", "Gflop", "Gflop/s of one processor"], rows)
    return ["## Budget of a step", "", "By `bench/step_profile`, which asks every millisecond of processor time what runs. Products are of "
            "linear layers: forward, the gradient of their input, and of their weight.", "", *lines] if lines else []


def reasons(record):
    """Why an item stays, by its part; what can be counted is."""
    speed = record["own_gflop_s"]
    sums = {line["part"]: line["ms"] for line in record["lines"] if not line["what"]}
    rate = lambda part, volume: volume * 1e-6 / sums[part] if sums.get(part) else 0
    numbers, rows, wide = record["trained"], record["rows"], 2 if record["type"] == "bfloat16" else 4
    found = {}
    if record.get("pairs"):  # forward two products, backward five; the last block has few queries
        gflop = 14e-9 * record["pairs"] * WIDTH * (BLOCKS - 1)
        found["attention"] = (f"{gflop:.1f} Gflop of causal products of its own, which are {gflop / speed * 1e3:.0f} ms at the speed of the limit; "
                              "the rest is packing sequences of unequal lengths and the softmax")
    activations = (2 * (BLOCKS - 1) + TRAINED) * rows * HIDDEN
    found["activations"] = (f"{activations * 1e-6:.0f} million exponentials and divisions, {1e6 * sums.get('activations', 0) / activations:.2f} ns each; "
                            "their inputs come from the products, their results go there, both through memory")
    volume = numbers * (34 if wide == 2 else 32)
    found["optimiser"] = (f"one pass over {numbers * 1e-6:.1f} million numbers, their gradients and both moments: {volume * 1e-6:.0f} MB, "
                          f"{rate('optimiser', volume):.0f} GB/s of one processor")
    volume = 2 * (BLOCKS - 1) * rows * WIDTH * wide * 8 + 4 * numbers
    found["norms"] = (f"forward two passes over the rows, backward four, and the gradients' norm once: {volume * 1e-6:.0f} MB, "
                      f"{rate('norms', volume):.0f} GB/s of one processor")
    found["memory traffic"] = "the residual sums forward and backward, sums over rows for the biases' gradients, slices for the last block"
    found["framework"] = "the calls of the operators themselves, packing the batch"
    return found


def between(results):
    """From the limit to the step, item by item."""
    lines = []
    for kind in ("bfloat16", "float32"):
        record = results.one("budget", kind)
        if record is None:
            continue
        sums = {line["part"]: line["ms"] for line in record["lines"] if not line["what"]}
        limit = record["gflop"] / record["own_gflop_s"] * 1e3
        head = sum(x["ms"] for x in record["lines"] if x["part"] == "loss and head" and x["gflop"])
        products = sums.pop("products", 0) + head
        sums["loss without its products"] = sums.pop("loss and head", 0) - head
        rest = record["threads"] * record["wall_ms"] - record["cpu_ms"]
        why = reasons(record)
        slower = products > limit
        items = [("**the limit**: all products at the speed of one of the feed-forward layer's size", limit, ""),
                 ("products that are slower than that one" if slower else "products that are faster than the matrix library's", products - limit,
                  ("other shapes, cold weights and results; the head's weight is read for a few rows; " if slower else "") +
                  ("tiles of offsite's own around oneDNN's micro-kernel" if kind == "bfloat16" else "the matrix library's own blocks")),
                 *((part, ms, why.get(part, "")) for part, ms in sorted(sums.items(), key=lambda item: -item[1])),
                 ("**the step**: processor time", record["cpu_ms"], ""),
                 ("processors that wait: for each other, and for what one thread does alone", rest, "")]
        lines += [f"In {kind} a step takes {record['cpu_ms'] / limit:.2f} times its limit of {limit:.0f} ms; the limit's share is "
                  f"{100 * limit / record['cpu_ms']:.0f} % of the processor time and "
                  f"{100 * limit / (record['threads'] * record['wall_ms']):.0f} % of what the clock gave.", "",
                  *table(["item", "ms a step", "of the step", "what it is"],
                         [(name, f"{ms:.1f}", f"{100 * ms / record['cpu_ms']:.1f} %", what) for name, ms, what in items])]
    if not lines:
        return []
    return ["## What stands between", "", "What separates the step from the limit, and why it stays. The limit leaves out attention's own products, "
            "the exponentials of softmax and activations, and AdamW's pass over all that trains: no client can. Removing an item whole "
            "would save its share.", "", *lines]
