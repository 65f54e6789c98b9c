"""What run.py measured: rates, operations and limits of the entries of benchmarks.json."""

from collections import Counter


def rate_of(record):
    """Tokens a second. A padded sample costs the same whatever its length, so it counts with the mean length of all."""
    if record.get("pad") == "fixed" or record["bench"] == "train_mit":
        return record["samples_per_s"] * record["mean_length_512"]
    return record["real_tok_per_s"]


def tokens_of(record):
    return rate_of(record) * record["wall_s"]


def question_rate(record, tokens):
    return record["real_tokens"] / record["wall_s"] / tokens


def limit_flop(record, width=768, frozen=4, trained=4):
    """Operations a counted token of the linear layers in their usual order: so many blocks of both kinds, all of the last one after its
    keys and values on scored rows only, as is the head."""
    square, rows, scored = width * width, record["rows"], record["scored"]
    work = (4 * frozen + 6 * (trained - 1)) * 12 * square * rows + 6 * (2 * square * rows + 10 * square * scored)
    return (work + 4 * 50257 * width * scored) / record["real_tokens"]


def question_flop(record):
    """Operations a counted token that the linear layers need to score questions: 12 blocks, as above without gradients."""
    square, scored = 768 * 768, record.get("scored", 0)
    work = (11 * 24 + 4) * square * record["rows"] + 20 * square * scored + 2 * 50257 * 768 * scored
    return work / record["real_tokens"]


def why_missing(run):
    """Why an entry of benchmarks.json has no result; None where it has."""
    if "records" not in run:
        return run.get("error") or run.get("skipped") or "it has no result"
    return "it took no time that the clock shows" if any(record.get("wall_s", 1) <= 0 for record in run["records"]) else None


SUMS = ("steps", "samples", "real_tokens", "rows", "scored", "wall_s", "user_s", "sys_s", "minor_faults")
PEAKS = ("peak_rss_mib", "peak_anonymous_mib")


def joined(parts):
    """The records of a run: of one that was measured in parts, what a whole one would have been."""
    if len(parts) == 1:
        return parts[0]
    records = [part[0] for part in parts]
    sums = {key: sum(record[key] for record in records) for key in SUMS}
    peaks = {key: max(record[key] for record in records) for key in PEAKS}
    return [{**records[0], **sums, **peaks, "real_tok_per_s": sums["real_tokens"] / sums["wall_s"]}]


def headline(entry):
    """What run.py says of a run."""
    record = entry["records"][0]
    if entry["group"] == "evaluation":
        return f"{record['questions'] / record['wall_s']:.2f} questions/s"
    if "real_tok_per_s" in record:
        return ", ".join(f"{rate_of(r):.1f}" for r in entry["records"]) + " tokens/s"
    if "bfloat16" in record:
        return f"{record['bfloat16']:.0f} and {record['float32']:.0f} Gflop/s"
    return "done"


class Results:
    def __init__(self, results):
        self.all = results
        self.entries = {}  # {(group, name, allocator): {round: the parts that it was measured in}}
        for run in results["runs"]:
            self.entries.setdefault((run["group"], run["name"], run["allocator"]), {}).setdefault(run["round"], []).append(run)

    def rounds(self, group, name, allocator="tuned"):
        """{round: its records} of what succeeded."""
        found = {r: [run["records"] for run in parts if why_missing(run) is None]
                 for r, parts in self.entries.get((group, name, allocator), {}).items()}
        return {r: joined(parts) for r, parts in found.items() if parts}

    def one(self, group, name, allocator=""):
        return next(iter(self.rounds(group, name, allocator).values()), [None])[0]

    def ratios(self, ours, theirs, group="step", rate=rate_of):
        a, b = self.rounds(group, *ours), self.rounds(group, *theirs)
        return [rate(a[r][0]) / rate(b[r][0] if r in b else next(iter(b.values()))[0]) for r in a
                if r in b or len(b) == 1]

    def limits(self, group, name, allocator, kind, flop=limit_flop, of="library"):
        """Tokens a second that the products alone would allow, one a round in which they were measured: at the speed of the
        matrix library's, or (`of` "peak") of the processor's instructions."""
        speeds = self.speeds(of, kind)
        runs = self.rounds(group, name, allocator)
        return [1e9 * speeds[r] / flop(run[0]) for r, run in runs.items() if r in speeds]

    def speeds(self, of, kind):
        """{round: Gflop/s} of the matrix library's products or of the processor's instructions alone, before or after ours."""
        found = {}
        for when in ("before", "after"):
            for r, run in self.rounds("products", when, "").items():
                speeds = [x[kind] for x in run if (x.get("bench") == "peak") == (of == "peak") and kind in x]
                found[r] = max([found.get(r, 0), *speeds])
        return {r: speed for r, speed in found.items() if speed}

    def missing(self):
        """{(group, name, allocator, why): its rounds} of what was planned and has no result."""
        found = {}
        for label, rounds in self.entries.items():
            for number, parts in rounds.items():
                for why in filter(None, map(why_missing, parts)):
                    found.setdefault((*label, why), set()).add(number)
        reached = Counter({(*label, number): len(parts) for label, rounds in self.entries.items() for number, parts in rounds.items()})
        for *label, number in Counter(map(tuple, self.all.get("planned", []))) - reached:
            found.setdefault((*label, "the run was cut off before it"), set()).add(number)
        return found
